"""Remembering through the command line: two runs at once, a run after, and switching it off."""

from __future__ import annotations

import subprocess

import pytest
from support.program import COMMAND, Program

from sw_audit.record.verdict import Status
from sw_audit.runner.run import RECALLED

FEW = ("--no-report", "-q", "--windows=8", "--check=super-weight-located", "--check=prune-collapses")


@pytest.mark.slow
def test_two_runs_at_once_find_the_same_and_a_third_remembers_it(program: Program) -> None:
    def command(out: str) -> list[str]:
        return [*COMMAND, "audit", "specimen", f"--out={out}", "--cache-dir=shared", *FEW]

    runs = [subprocess.Popen(command(out), cwd=program.folder) for out in ("a", "b")]
    assert [run.wait(300) for run in runs] == [0, 0]
    third = program.start("audit", "specimen", "--out=c", "--cache-dir=shared", *FEW)
    assert (third.code, third.err) == (0, "")
    first, second, last = (program.record(f"{out}/record.json") for out in "abc")
    assert first.verdicts == second.verdicts == last.verdicts
    assert last.find_model("specimen").notes[-1] == RECALLED
    assert list((program.folder / "shared").rglob("*.tmp")) == []


@pytest.mark.slow
def test_a_second_run_remembers_unless_it_is_told_not_to(program: Program) -> None:
    assert program.run("audit", "specimen", *FEW).code == 0
    assert RECALLED not in program.record().find_model("specimen").notes
    assert program.run("audit", "specimen", *FEW).code == 0
    assert RECALLED in program.record().find_model("specimen").notes
    assert program.run("audit", "specimen", "--no-cache", *FEW).code == 0
    assert RECALLED not in program.record().find_model("specimen").notes
    assert (program.folder / ".sw-audit/cache/CACHEDIR.TAG").is_file()


@pytest.mark.slow
def test_what_was_saved_can_be_compared_with(program: Program) -> None:
    assert program.run("audit", "specimen", "--save=before", *FEW).code == 0
    ending = program.run("audit", "specimen", "--compare=before", "--check=quality-not-worse", *FEW)
    assert ending.code == 0
    compared = {one.check: one for one in program.record().verdicts}["quality-not-worse"]
    assert (compared.status, compared.observed) == (Status.PASS, 1.0)
    unknown = program.run("audit", "specimen", "--compare=befor", *FEW)
    assert (unknown.code, len(unknown.complaints)) == (2, 1)
    assert "did you mean 'before'?" in unknown.err
