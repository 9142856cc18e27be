"""`sw-audit verify`: what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest
from support.evidence import make_true_record
from support.program import Program

from sw_audit.record.store import encode_record

TEXT = encode_record(make_true_record())


@pytest.fixture
def record(program: Program) -> Program:
    (program.folder / "record.json").write_text(TEXT)
    return program


def test_a_record_that_is_what_was_written_ends_with_0_but_for_what_cannot_be_told(record: Program) -> None:
    ending = record.run("verify", "record.json")
    assert ending.code == 1  # the text that it was made up on is none that there is
    assert "CHANGED  text specimen" in ending.out
    told = json.loads(record.run("verify", "record.json", "--json").out)
    assert [one["where"] for one in told["changed"]] == ["text specimen"]
    assert told["sha256"] == json.loads(TEXT)["digest"]["sha256"]


@pytest.mark.parametrize(
    "change", [('"seed": 0', '"seed": 1'), ('"status": "fail"', '"status": "pass"'), ("{", "[")]
)
def test_what_was_changed_ends_with_1(record: Program, change: tuple[str, str]) -> None:
    (record.folder / "record.json").write_text(TEXT.replace(*change, 1))
    assert record.run("verify", "record.json").code == 1


def test_a_record_that_is_not_there_ends_with_2(program: Program) -> None:
    ending = program.run("verify", "gone.json")
    assert (ending.code, len(ending.complaints)) == (2, 1)


def test_what_does_not_verify_is_neither_rendered_nor_compared_with_unless_it_is_said(record: Program) -> None:
    (record.folder / "record.json").write_text(TEXT.replace('"status": "fail"', '"status": "pass"', 1))
    for command in (
        ("render", "record.json", "-o", "-", "--format", "text"),
        ("diff", "record.json", "record.json"),
    ):
        refused = record.run(*command)
        assert (refused.code, len(refused.complaints)) == (2, 1)
        assert "it does not verify: models[a].verdicts[" in refused.err
        assert "--unverified" in refused.err
        assert record.run(*command, "--unverified").code == 0


def test_a_baseline_that_does_not_verify_is_refused_before_anything_is_measured(record: Program) -> None:
    losses = json.loads(TEXT)
    loss = losses["models"][0]["measurements"][0]["loss"]
    loss["nats"] = [1.5 * value for value in loss["nats"]]
    (record.folder / "record.json").write_text(json.dumps(losses))
    refused = record.run("audit", "specimen", "--compare", "record.json")
    assert (refused.code, len(refused.complaints)) == (2, 1)
    assert "models[a].measurements[baseline]" in refused.err
