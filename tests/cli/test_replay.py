"""`sw-audit replay`: what it prints, writes and exits with."""

from __future__ import annotations

import json

import pytest
from support.program import Program

from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.record.record import Record
from sw_audit.record.store import encode_record, read_record
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path


@pytest.fixture(scope="module")
def audited() -> Record:
    model = ModelPolicy(source=str(specimen_path()), id="tiny", expect="some")
    policy = Policy(models=(model,), corpus=CorpusPolicy(source="specimen", windows=4), checks=CheckLimits())
    return run(policy, checks=["weights-intact", "super-weight-located"])


@pytest.mark.slow
def test_a_record_is_replayed_told_and_written(program: Program, audited: Record) -> None:
    (program.folder / "record.json").write_text(encode_record(audited))
    ending = program.run("replay", "record.json", "-o", "again.json")
    assert ending.code == 0
    assert "REPRODUCED: 2 exact" in ending.out
    assert "tool and environment are the same" in ending.out
    assert read_record(program.folder / "again.json").verdicts == audited.verdicts
    told = json.loads(program.run("replay", "record.json", "weights-intact", "--json", "-q").out)
    assert (told["reproduced"], told["differences"]) == (True, [])
    assert [(one["check"], one["agreement"]) for one in told["verdicts"]] == [("weights-intact", "exact")]


@pytest.mark.slow
def test_another_status_ends_with_one_and_that_of_another_tool_with_three(
    program: Program, audited: Record
) -> None:
    [result] = audited.results
    verdicts = tuple(
        one.model_copy(update={"observed": 3.0, "status": Status.FAIL}) if one.check == "weights-intact" else one
        for one in result.verdicts
    )
    forged = audited.model_copy(update={"models": (result.model_copy(update={"verdicts": verdicts}),)})
    (program.folder / "forged.json").write_text(encode_record(forged))
    refused = program.run("replay", "forged.json", "-q")
    assert (refused.code, len(refused.complaints)) == (2, 1)
    assert "it does not verify" in refused.err
    ending = program.run("replay", "forged.json", "weights-intact", "-q", "--unverified")
    assert (ending.code, ending.out) == (1, "NOT REPRODUCED: 1 differs\n")
    old = forged.model_copy(update={"tool": forged.tool.model_copy(update={"version": "0.0.1"})})
    (program.folder / "old.json").write_text(encode_record(old))
    ending = program.run("replay", "old.json", "weights-intact", "--unverified", "-q")
    assert (ending.code, ending.out) == (3, "CANNOT BE TOLD: 1 cannot be told\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--model", "tiny"), "write --model ID=PATH"),
        (("--model", "other=x"), "the record knows tiny"),
        (("--model", "tiny=gone"), "there is no such file or folder"),
        (("weights-intac",), "did you mean 'weights-intact'"),
    ],
)
def test_bad_input_is_one_line(program: Program, audited: Record, words: tuple[str, ...], complaint: str) -> None:
    (program.folder / "record.json").write_text(encode_record(audited))
    ending = program.run("replay", "record.json", "-q", *words)
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert complaint in ending.err
