"""A record survives as JSON, as a file and as a baseline; whatever is wrong is one clear line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import change_model, compose, make_arms, make_evidence, make_policy, make_record

from sw_audit.checks.holdout_beats_plain_rtn import holdout_beats_plain_rtn
from sw_audit.checks.judging import judge_result
from sw_audit.errors import OutputError, RecordError
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    Arm,
    Custom,
    RestoredModule,
    Subset,
    ZeroedExpert,
    ZeroedExperts,
)
from sw_audit.record.baseline import REMEMBERED
from sw_audit.record.digest import digest_document
from sw_audit.record.location import Outcome
from sw_audit.record.measurement import DivergenceSpread
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.store import (
    EMBEDDED_ID,
    check_name,
    check_writable,
    choose_baseline,
    decode_record,
    decode_stored,
    encode_document,
    encode_record,
    find_baseline,
    is_name,
    json_schema,
    keep_baseline,
    list_baselines,
    open_baseline,
    read_record,
    whole_folder,
    write_text,
    write_texts,
)
from sw_audit.record.upgrades import CURRENT, upgrade_document
from sw_audit.record.verdict import Status, Verdict

DATA = Path(__file__).parent / "data"
GOLDEN = sorted(DATA.glob("schema-*.json"))
RECORD = make_record(windows=8, items=24)

finite = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


def edit_record(**changes: Any) -> str:
    return json.dumps({**json.loads(encode_record(RECORD)), **changes})


def complain(text: str) -> str:
    with pytest.raises(RecordError) as caught:
        decode_record(text, "mine.json")
    message = str(caught.value)
    assert message.startswith("record mine.json")
    return message


def test_a_record_comes_back_as_it_was() -> None:
    assert decode_record(encode_record(RECORD)) == RECORD


@given(numbers=st.lists(finite, min_size=4, max_size=4), because=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_every_number_and_every_text_comes_back_to_the_last_bit(numbers: list[float | None], because: str) -> None:
    observed, low, high, limit = numbers
    verdict = Verdict(
        check="c",
        model="m",
        status=Status.FAIL,
        observed=observed,
        low=low,
        high=high,
        limit=limit,
        because=because,
    )
    failure = ModelFailure(model="m", message="", verdicts=(verdict,))
    small = RECORD.model_copy(update={"models": (failure,)})
    (again,) = decode_record(encode_record(small)).verdicts
    assert again == verdict
    assert [str(bound) for bound in (again.observed, again.low)] == [str(observed), str(low)]


def test_the_document_has_the_keys_that_readers_count_on() -> None:
    document = json.loads(encode_record(RECORD))
    keys = {
        "schema",
        "tool",
        "created",
        "environment",
        "policy",
        "origin",
        "models",
        "redacted",
        "sources",
        "digest",
    }
    assert document.keys() == keys
    assert document["schema"] == 4
    assert [model["kind"] for model in document["models"]] == ["result", "result", "result", "failure"]
    result, failure = document["models"][0], document["models"][-1]
    assert {"model", "protocol", "location", "measurements", "verdicts"} <= result.keys()
    assert {"model", "message", "verdicts"} <= failure.keys()
    assert {"id", "source", "digest"} <= result["model"].keys()
    keys = {"check", "model", "status", "observed", "low", "high", "limit", "because"}
    assert keys <= result["verdicts"][0].keys()
    assert {verdict["status"] for verdict in result["verdicts"]} <= {"pass", "fail", "inconclusive", "skipped"}


def test_plain_lists_stay_on_one_line_and_tables_are_indented() -> None:
    lines = encode_record(RECORD).splitlines()
    assert lines[:2] == ["{", '  "schema": 4,']
    assert any(line.strip().startswith('"nats": [') and line.strip().endswith("],") for line in lines)


def test_the_text_holds_no_word_that_json_does_not_know() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(encode_record(RECORD), parse_constant=refuse)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_records_of_every_schema_load_for_ever_and_are_judged_the_same(path: Path) -> None:
    record = decode_record(path.read_text(encoding="utf-8"))
    assert record.schema_number == CURRENT
    assert [model.id for model in record.models] == ["specimen", "broken", "control", "gone"]
    assert [failure.id for failure in record.failures] == ["gone"]
    for result in record.results:
        assert result.verdicts
        # Checks that are younger than the record, such as on what is expected, have nothing to go by in it.
        former = [
            verdict
            for verdict in result.verdicts
            if (verdict.check, result.location.outcome) != ("super-weight-located", Outcome.NONE)
        ]
        again = judge_result(result, record.policy, [verdict.check for verdict in former])
        assert [(verdict.check, verdict.status) for verdict in again] == [
            (verdict.check, verdict.status) for verdict in former
        ]
        for new, old in zip(again, former, strict=True):
            # Two destroyed arms are no longer compared, so that another recipe decides.
            if old.check == holdout_beats_plain_rtn.id:
                continue
            assert new.observed == pytest.approx(old.observed)
            # Their intervals were drawn, and of another kind.
            assert (new.low is None, new.high is None) == (old.low is None, old.high is None)


def test_a_record_of_schema_2_keeps_what_it_summed_up_of_single_tokens() -> None:
    record = read_record(DATA / "schema-2.json")
    spread = DivergenceSpread(median=0.003, p99=0.7, maximum=4.0)
    told = [one.agreement.tail for one in record.results[0].measurements if one.agreement.tail is not None]
    assert told == [spread]


def test_there_is_a_golden_record_of_every_former_schema() -> None:
    assert [path.stem for path in GOLDEN] == [f"schema-{number}" for number in range(1, CURRENT)]


def test_a_written_record_is_what_its_schema_says() -> None:
    schema = json_schema()["record"]
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(encode_record(RECORD))
    # A few measurements stand for all: they are alike, and the validator is slow.
    for model in document["models"]:
        if model["kind"] == "result":
            model["measurements"] = model["measurements"][:6]
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(document)
    changes: tuple[dict[str, Any], ...] = ({"surprise": 1}, {"schema": 5}, {"verdicts": []}, {"models": [{}]})
    for broken in changes:
        assert not validator.is_valid({**document, **broken})


def test_a_policy_is_what_its_schema_says() -> None:
    schema = json_schema()["policy"]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({})
    validator.validate({"model": [{"source": "x"}], "checks": {"prune-collapses": {"minimum_ratio": 3}}})
    limits = {"prune-collapses": {"minimum_ratio": 0}}
    changes: tuple[dict[str, Any], ...] = ({"modell": []}, {"seed": -1}, {"checks": limits})
    for broken in changes:
        assert not validator.is_valid(broken)


def test_a_newer_schema_is_refused_and_says_what_to_install() -> None:
    message = complain(edit_record(schema=5))
    assert "schema 5, newer than 4" in message
    assert "install a newer sw-audit" in message


@pytest.mark.parametrize("number", [0, -3, "1", None, True, 1.5])
def test_a_schema_number_that_never_was_is_refused(number: object) -> None:
    assert "schema" in complain(edit_record(schema=number))


def test_an_unknown_key_is_refused_with_its_path() -> None:
    document = json.loads(encode_record(RECORD))
    document["models"][1]["colour"] = "red"
    assert "key models[1].result.colour: this key is unknown" in complain(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"created": 5}, "key created"),
        ({"models": {}}, "key models"),
        (
            {"models": [{"kind": "failure", "model": "m", "message": "", "verdicts": [{"status": "perhaps"}]}]},
            "key models[0].failure.verdicts[0]",
        ),
        ({"models": [{"kind": "failure", "model": "m", "message": 9}]}, "key models[0].failure.message"),
        ({"models": [{"kind": "guess"}]}, "key models[0]"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(changes: dict[str, Any], words: str) -> None:
    assert words in complain(edit_record(**changes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[1, 2]", "it is a JSON list"),
        ('{"schema": 3, "schema": 3}', "a key stands twice"),
        ('{"schema": 1}', "it is no record of schema 1"),
        ('{"schema": 1, "x": NaN}', "NaN"),
        ('{"schema": 1, "x": -Infinity}', "-Infinity"),
        ("{}", "it has no schema number"),
        ("[" * 100_000, "it is not JSON"),
    ],
)
def test_what_is_no_record_is_one_clear_line(text: str, words: str) -> None:
    assert words in complain(text)


def test_an_infinite_number_is_refused_even_if_it_is_spelt_as_a_number() -> None:
    document = json.loads(encode_record(RECORD))
    document["models"][0]["verdicts"][0]["observed"] = 12345.678
    complain(json.dumps(document).replace("12345.678", "1e999"))


def test_an_old_document_takes_every_step_to_the_current_form() -> None:
    steps = {
        1: lambda old: {**old, "colour": old["color"]},
        2: lambda old: {key: part for key, part in old.items() if key != "color"},
    }
    old = {"schema": 1, "color": "red"}
    assert upgrade_document(old, "x", current=3, steps=steps) == {"schema": 3, "colour": "red"}
    assert old == {"schema": 1, "color": "red"}
    assert upgrade_document({"schema": 3}, "x", current=3, steps=steps) == {"schema": 3}
    with pytest.raises(RecordError, match="newer than 3"):
        upgrade_document({"schema": 4}, "x", current=3, steps=steps)
    with pytest.raises(RecordError, match="schema 1 does not exist"):
        upgrade_document({"schema": 1}, "x", current=3, steps={2: steps[2]})


def test_from_schema_1_every_model_takes_what_is_its_own_in_the_order_of_the_policy() -> None:
    def measure(model: str, kind: str) -> dict[str, Any]:
        return {"model": model, "arm": {"name": kind, "acts": [{"kind": kind}]}}

    old = {
        "schema": 1,
        "tool": {},
        "created": "now",
        "environment": {},
        "policy": {"model": [{"id": "b"}, {"id": "gone"}, {"id": "a"}]},
        "models": [{"id": "a"}, {"id": "b"}],
        "locations": {"a": 1, "b": 2},
        "measurements": [measure("a", "stand-in"), measure("b", "scale")],
        "descents": {"b": {"texts": [{"measurements": [measure("b", "borrow")]}]}},
        "failures": [{"model": "gone", "message": "no"}],
        "verdicts": [{"model": model, "check": check} for model, check in (("a", "x"), ("gone", "x"), ("a", "y"))],
    }
    kept = json.dumps(old)
    new = upgrade_document(old, "x")
    assert json.dumps(old) == kept
    assert new.keys() == {"schema", "tool", "created", "environment", "policy", "models"}
    b, gone, a = new["models"]
    assert (a["kind"], a["model"], a["location"], b["location"]) == ("result", {"id": "a"}, 1, 2)
    purpose = {"kind": "backend", "method": "stand-in"}
    assert a["measurements"] == [{"model": "a", "arm": {"purpose": purpose, "acts": [{"kind": "replace-layer"}]}}]
    assert b["descent"]["texts"][0]["measurements"][0]["arm"]["acts"] == [{"kind": "swap-modules"}]
    assert "descent" not in a
    assert [verdict["check"] for verdict in a["verdicts"]] == ["x", "y"]
    assert gone == {"kind": "failure", "model": "gone", "message": "no", "verdicts": old["verdicts"][1:2]}


def test_from_schema_1_a_finding_named_like_a_measured_arm_is_about_it() -> None:
    for result in read_record(DATA / "schema-1.json").results:
        arms = {str(measured.arm.purpose) for measured in result.measurements}
        findings = [finding for verdict in result.verdicts for finding in verdict.findings]
        assert all(finding.arm == (finding.label if finding.label in arms else None) for finding in findings)
        controls = {finding.arm for finding in findings if finding.label.startswith("placebo/")}
        assert len(controls) == (12 if result.location.super_weights else 0)


def test_from_schema_1_a_published_curve_has_its_unit_from_what_was_said_of_it() -> None:
    curves = [{"quantity": "perplexity ratio over the factor"}, {"quantity": "accuracy, percent"}]
    old = {"schema": 1, "policy": {"model": []}, "models": [{"id": "a"}], "published_doses": {"a": curves}}
    [model] = upgrade_document({**old, "tool": {}, "created": "", "environment": {}}, "x")["models"]
    assert [curve.get("unit") for curve in model["published_doses"]] == ["perplexity ratio", None]


def test_from_schema_1_every_arm_is_told_what_it_is_for() -> None:
    beside = [
        Arm(purpose=purpose) for purpose in (PARENT, DESCENDANT, RESTORED_WEIGHTS, RestoredModule(module="m.a"))
    ]
    parts = [Arm(purpose=Subset(part="row", number=2)), Arm(purpose=Custom(label="whatever it was"))]
    known = [arm for arm in make_arms(make_policy()) if not isinstance(arm.purpose, ZeroedExpert | ZeroedExperts)]
    for arm in (*known, *beside, *parts):
        written = arm.model_dump(mode="json")
        del written["purpose"]
        old = {
            "schema": 1,
            "policy": {"model": []},
            "models": [{"id": "a"}],
            "tool": {},
            "created": "",
            "environment": {},
        }
        old["measurements"] = [{"model": "a", "arm": {"name": arm.name, **written}}]
        [model] = upgrade_document(old, "x")["models"]
        assert Arm.model_validate(model["measurements"][0]["arm"]) == arm


SHORT_RECORD = make_record(windows=8, items=8)


def embed_record(text: str) -> str:
    """Put a record into a page the way a report carries it: `<` cannot end the element early."""
    escaped = text.replace("<", "\\u003c")
    return (
        "<!doctype html><html><head><script>let other = 1;</script></head><body><p>report</p>"
        f'<script type="application/json" id="{EMBEDDED_ID}">{escaped}</script>'
        "<script>let last = 2;</script></body></html>"
    )


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "größer\r\nthan\n")
    assert path.read_bytes() == "größer\r\nthan\n".encode()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_others_may_read_it_as_the_umask_has_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "report.html", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_text(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, place: str
) -> None:
    def break_off(*_: object) -> None:
        raise failure

    path = tmp_path / "record.json"
    path.write_text("old")
    if place == "fsync":
        monkeypatch.setattr("sw_audit.record.store.os.fsync", break_off)
    else:
        monkeypatch.setattr(Path, "replace", break_off)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(failure, OSError):
        assert "No space left on device" in str(caught.value)


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sw_audit.record import store\n"
        "store.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.write_text(Path(sys.argv[1]), 'new' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_of_files_that_belong_together_none_is_new_where_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("old")
    (tmp_path / "junit.xml").mkdir()
    with pytest.raises(OutputError, match=r"junit\.xml: Is a directory"):
        write_texts({tmp_path / "record.json": "new", tmp_path / "junit.xml": "new"})
    assert (tmp_path / "record.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "record.json"]


@pytest.mark.parametrize("moment", ["write", "move"])
def test_a_process_killed_between_two_of_them_leaves_the_old_ones_and_the_next_write_clears_what_it_left(
    tmp_path: Path, moment: str
) -> None:
    names = ("record.json", "report.html", "junit.xml")
    for name in names:
        (tmp_path / name).write_text("old")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sw_audit.record import store\n"
        "left = [1, 1]\n"
        "def kill(*_): left and left.pop() and (left or os.kill(os.getpid(), signal.SIGKILL))\n"
        f"{'store.os.fsync' if moment == 'write' else 'Path.resolve'} = kill\n"
        "store.write_texts({Path(name): 'new' * 100_000 for name in sys.argv[1:]})\n"
    )
    if moment == "move":
        program = program.replace("Path.resolve = kill", "Path.replace = lambda *_: os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", program, *names], check=False, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert [(tmp_path / name).read_text() for name in names] == ["old"] * 3
    assert len(list(tmp_path.iterdir())) > 3
    write_text(tmp_path / "record.json", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("parts", [("missing", "record.json"), ("file", "record.json"), ("folder",)])
def test_a_place_that_cannot_be_written_to_is_one_clear_line(tmp_path: Path, parts: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    path = tmp_path.joinpath(*parts)
    with pytest.raises(OutputError, match="choose a place that can be written to") as caught:
        write_text(path, "x")
    assert str(path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_writable(folder)
    check_writable(folder)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_a_file_or_inside_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="choose a folder that can be written to"):
            check_writable(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Write as somebody whom permissions hold for: the superuser may write anywhere."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_without_permission_is_refused() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        for name, mode in (("open", 0o777), ("locked", 0o555)):
            (Path(place) / name).mkdir()
            (Path(place) / name).chmod(mode)
        with without_privileges():
            check_writable(Path(place) / "open")
            for folder in (Path(place) / "locked", Path(place) / "locked" / "below"):
                with pytest.raises(OutputError, match="Permission denied"):
                    check_writable(folder)


def test_a_record_is_read_from_json_and_from_a_report(tmp_path: Path) -> None:
    text = encode_record(SHORT_RECORD)
    for name, content in (
        ("record.json", text),
        ("report.html", embed_record(text)),
        ("R.HTM", embed_record(text)),
    ):
        write_text(tmp_path / name, content)
        assert read_record(tmp_path / name) == SHORT_RECORD


def test_a_record_that_speaks_of_markup_survives_its_report(tmp_path: Path) -> None:
    verdict = SHORT_RECORD.verdicts[0].model_copy(update={"because": "</script><b>&amp; ünd </script>"})
    record = change_model(SHORT_RECORD, verdicts=(verdict,))
    write_text(tmp_path / "report.html", embed_record(encode_record(record)))
    assert read_record(tmp_path / "report.html") == record


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.html", b"<html><script id='other'>{}</script></html>", "carries no record"),
        ("report.html", embed_record("{").encode(), "it is not JSON"),
        ("record.json", b"\xff\xfe\x00", "not text in UTF-8"),
        ("record.json", b"", "it is not JSON"),
    ],
)
def test_a_file_without_a_usable_record_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=words) as caught:
        read_record(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_record_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        read_record(tmp_path / "none.json")
    with pytest.raises(RecordError, match="directory"):
        read_record(tmp_path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_alone(model_id: str = "specimen") -> Record:
    """Return a record of one model."""
    return compose(make_evidence(model_id))


def policy(**more: object) -> Policy:
    return Policy.model_validate({"model": [{"source": "./tuned"}], "compare": "main", **more})


def test_a_record_kept_under_a_name_is_the_same_record(folder: Path) -> None:
    record = make_alone()
    assert keep_baseline("main", record) == folder / ".sw-audit/baselines/main.json"
    assert open_baseline("main") == record
    assert list_baselines() == ("main",)


def test_a_baseline_is_found_from_a_folder_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_baseline("main", make_alone())
    (folder / "a/b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a/b")
    assert open_baseline("main") == make_alone()
    keep_baseline("second", make_alone())
    assert not Path(".sw-audit").exists()
    assert list_baselines() == ("main", "second")


def test_a_name_that_is_taken_is_replaced_and_nothing_is_left_beside_it(folder: Path) -> None:
    keep_baseline("main", make_alone("old"))
    keep_baseline("main", make_alone("new"))
    assert [model.id for model in open_baseline("main").models] == ["new"]
    assert [path.name for path in (folder / ".sw-audit/baselines").iterdir()] == ["main.json"]


@pytest.mark.parametrize("word", ["main", "v1.2", "a+b", "2026-01-01"])
def test_these_are_names(word: str) -> None:
    assert is_name(word)
    check_name(word)


@pytest.mark.parametrize("word", ["out/record.json", "record.json", "report.HTML", "..", ".x", "a b", "", "a\\b"])
def test_these_are_no_names(word: str) -> None:
    assert not is_name(word)
    with pytest.raises(OutputError, match="no name"):
        check_name(word)


def test_a_record_anywhere_can_be_compared_with_by_its_path(folder: Path) -> None:
    record = make_alone()
    (folder / "out").mkdir()
    (folder / "out/record.json").write_text(encode_record(record), encoding="utf-8")
    assert open_baseline("out/record.json") == open_baseline("out") == record


def test_a_baseline_that_there_is_not_is_told_with_the_nearest() -> None:
    with pytest.raises(RecordError, match=r"there is none in .*; keep one with .* --save NAME"):
        open_baseline("main")
    keep_baseline("main", make_alone())
    with pytest.raises(RecordError, match="did you mean 'main'"):
        open_baseline("mian")
    with pytest.raises(RecordError, match="No such file"):
        open_baseline("./gone.json")


def test_one_model_serves_any_successor_and_of_several_the_one_of_that_id_or_its_parent() -> None:
    keep_baseline("main", make_alone("llama"))
    baseline = find_baseline(policy(), policy().models[0])
    assert baseline is not None
    assert (baseline.name, baseline.model.id) == ("main", "llama")
    several = make_record()
    assert choose_baseline(several, "x", ["control"]).model.id == "control"
    assert choose_baseline(several, "x", ["tuned", "specimen"]).model.id == "specimen"
    with pytest.raises(RecordError, match="it holds specimen, broken, control, and no tuned"):
        choose_baseline(several, "x", ["tuned"])


def test_the_parent_of_a_descendant_is_found_by_its_id() -> None:
    keep_baseline("main", make_record())
    asked = policy(model=[{"source": "./tuned", "parent": "control"}, {"source": "./control"}])
    baseline = find_baseline(asked, asked.models[0])
    assert baseline is not None
    assert baseline.model.id == "control"


def test_a_baseline_says_what_was_known_and_nothing_of_what_was_done_to_it() -> None:
    record = make_alone()
    baseline = choose_baseline(record, "main", ["specimen"])
    assert baseline.measurement.arm.acts == ()
    assert baseline.location == record.find_model("specimen").location
    assert baseline.protocol.signature == baseline.measurement.protocol
    assert baseline.created == record.created


def test_a_baseline_remembers_what_it_was_held_against_and_of_many_the_newest() -> None:
    record = make_alone()
    for place in range(REMEMBERED + 2):
        held = choose_baseline(record, f"run-{place}", ["specimen"])
        assert [run.name for run in held.earlier] == [f"run-{one}" for one in range(place)][-REMEMBERED:]
        [result] = record.results
        record = record.model_copy(update={"models": (result.model_copy(update={"baseline": held}),)})
    last, unedited = held.earlier[-1], make_alone().results[0].unedited
    assert unedited is not None
    assert (last.loss, last.protocol, last.model) == (unedited.loss, unedited.protocol, "specimen")
    assert (last.created, last.tool, last.digest) == (held.created, held.tool.version, held.model.digest)


def test_a_run_that_measured_nothing_is_not_kept() -> None:
    empty = make_alone().model_copy(update={"models": ()})
    with pytest.raises(OutputError, match="nothing to keep"):
        keep_baseline("main", empty)
    assert list_baselines() == ()


def test_nothing_is_compared_unless_it_is_asked_for() -> None:
    assert find_baseline(policy(compare=None), policy().models[0]) is None


def write_half(folder: Path) -> float:
    with whole_folder(folder) as draft:
        (draft / "new").write_text("y")
        return 1 / 0


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("x")
    with pytest.raises(ZeroDivisionError):
        write_half(folder)
    assert (list_names(tmp_path), list_names(folder)) == (["out"], ["old"])
    with whole_folder(folder) as draft:
        (draft / "new").write_text("y")
    assert (list_names(tmp_path), list_names(folder)) == (["out"], ["new"])


def test_a_record_of_before_a_key_was_added_is_still_what_was_written() -> None:
    document = json.loads(encode_record(RECORD))
    for key in ("digest", "origin", "redacted"):
        del document[key]
    document["digest"] = digest_document(document).model_dump()
    stored = decode_stored(encode_document(document))
    assert stored.record == RECORD
    assert stored.list_doubts() == []
