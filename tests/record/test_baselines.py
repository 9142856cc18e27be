"""Records kept under a name: found from below, replaced as a whole, and plain about what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.evidence import compose, make_evidence, make_record

from sw_audit.errors import OutputError, RecordError
from sw_audit.policy.policy import Policy
from sw_audit.record.baselines import (
    check_name,
    choose_baseline,
    find_baseline,
    is_name,
    keep_baseline,
    list_baselines,
    open_baseline,
)
from sw_audit.record.codec import encode_record
from sw_audit.record.record import Record


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
    found = find_baseline(policy(), policy().models[0])
    assert found is not None
    assert (found.name, found.model.id) == ("main", "llama")
    several = make_record()
    assert choose_baseline(several, "x", ["control"]).model.id == "control"
    assert choose_baseline(several, "x", ["tuned", "specimen"]).model.id == "specimen"
    with pytest.raises(RecordError, match="it holds specimen, broken, control, and no tuned"):
        choose_baseline(several, "x", ["tuned"])


def test_the_parent_of_a_descendant_is_found_by_its_id() -> None:
    keep_baseline("main", make_record())
    asked = policy(model=[{"source": "./tuned", "parent": "control"}, {"source": "./control"}])
    found = find_baseline(asked, asked.models[0])
    assert found is not None
    assert found.model.id == "control"


def test_a_baseline_says_what_was_known_and_nothing_of_what_was_done_to_it() -> None:
    record = make_alone()
    found = choose_baseline(record, "main", ["specimen"])
    assert found.measurement.arm.acts == ()
    assert found.location == record.find_model("specimen").location
    assert found.protocol.signature == found.measurement.protocol
    assert found.created == record.created


def test_a_run_that_measured_nothing_is_not_kept() -> None:
    empty = make_alone().model_copy(update={"models": ()})
    with pytest.raises(OutputError, match="nothing to keep"):
        keep_baseline("main", empty)
    assert list_baselines() == ()


def test_nothing_is_compared_unless_it_is_asked_for() -> None:
    assert find_baseline(policy(compare=None), policy().models[0]) is None
