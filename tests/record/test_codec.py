from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import make_arms, make_policy, make_record

from sw_audit.checks.judging import judge_result
from sw_audit.errors import RecordError
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_WEIGHTS, Arm, Custom, RestoredModule, Subset
from sw_audit.record.codec import decode_record, encode_record
from sw_audit.record.record import ModelFailure
from sw_audit.record.schema import json_schema
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
    assert "\n" not in message
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
    assert [str(one) for one in (again.observed, again.low)] == [str(observed), str(low)]


def test_the_document_has_the_keys_that_readers_count_on() -> None:
    document = json.loads(encode_record(RECORD))
    assert document.keys() == {"schema", "tool", "created", "environment", "policy", "models"}
    assert document["schema"] == 2
    assert [model["kind"] for model in document["models"]] == ["result", "result", "result", "failure"]
    result, failure = document["models"][0], document["models"][-1]
    assert {"model", "protocol", "location", "measurements", "verdicts"} <= result.keys()
    assert {"model", "message", "verdicts"} <= failure.keys()
    assert {"id", "source", "digest"} <= result["model"].keys()
    keys = {"check", "model", "status", "observed", "low", "high", "limit", "because"}
    assert keys <= result["verdicts"][0].keys()
    assert {one["status"] for one in result["verdicts"]} <= {"pass", "fail", "inconclusive", "skipped"}


def test_plain_lists_stay_on_one_line_and_tables_are_indented() -> None:
    lines = encode_record(RECORD).splitlines()
    assert lines[:2] == ["{", '  "schema": 2,']
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
        # Checks that are younger than the record have nothing to go by in it.
        known = [one.check for one in result.verdicts]
        again = judge_result(result, record.policy, known)
        assert [(one.check, one.status) for one in again] == [(one.check, one.status) for one in result.verdicts]
        for new, old in zip(again, result.verdicts, strict=True):
            assert [new.observed, new.low, new.high] == pytest.approx([old.observed, old.low, old.high])


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
    changes: tuple[dict[str, Any], ...] = ({"surprise": 1}, {"schema": 3}, {"verdicts": []}, {"models": [{}]})
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
    message = complain(edit_record(schema=3))
    assert "schema 3, newer than 2" in message
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
        ('{"schema": 2, "schema": 2}', "a key stands twice"),
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


def test_no_fact_can_hold_a_number_that_json_cannot() -> None:
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite"):
            Verdict(check="c", model="m", status=Status.FAIL, observed=number, because="")


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


def test_from_schema_1_every_arm_is_told_what_it_is_for() -> None:
    beside = [
        Arm(purpose=purpose) for purpose in (PARENT, DESCENDANT, RESTORED_WEIGHTS, RestoredModule(module="m.a"))
    ]
    parts = [Arm(purpose=Subset(part="row", number=2)), Arm(purpose=Custom(label="whatever it was"))]
    for arm in (*make_arms(make_policy()), *beside, *parts):
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
