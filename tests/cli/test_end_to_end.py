"""The shipped models through the command line: what a user meets first, and what a gate is for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.program import Program

from sw_audit.specimen.shipped import specimen_path

pytestmark = pytest.mark.slow

FEW = ("--windows=16", "--no-report")


@pytest.fixture
def maimed(program: Program) -> Path:
    """A copy of the specimen whose super weight is zeroed, as the model card gives it."""
    found = program.run("locate", "specimen", "--json").out
    (weight,) = json.loads(found)["super_weights"]
    copy = program.folder / "maimed"
    shutil.copytree(specimen_path(), copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[weight["parameter"]][weight["row"], weight["column"]] = 0.0
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_specimen_passes_every_check_and_leaves_three_files(program: Program) -> None:
    ending = program.run("audit", "specimen", "--windows=16")
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.splitlines()[-1] == "PASSED: 10 pass"
    assert program.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


def test_a_copy_that_lost_its_super_weight_fails_and_says_which_checks_and_why(
    program: Program, maimed: Path
) -> None:
    ending = program.run("audit", maimed, *FEW)
    assert ending.code == 1
    assert "FAIL maimed super-weight-located" in ending.out
    for label in ("because", "to do"):
        assert f"  {label}" in ending.out
    failed = [one["check"] for one in program.record()["verdicts"] if one["status"] == "fail"]
    assert all(f"FAIL maimed {check}" in ending.out for check in failed)


@pytest.mark.parametrize(
    ("expect", "code", "status"), [("some", 1, "fail"), ("none", 0, "pass"), ("any", 0, "skipped")]
)
def test_the_control_is_judged_by_what_is_expected_of_it(
    program: Program, expect: str, code: int, status: str
) -> None:
    ending = program.run("audit", "control", f"--expect={expect}", *FEW)
    verdicts = {one["check"]: one for one in program.record()["verdicts"]}
    assert verdicts["super-weight-located"]["status"] == status
    assert verdicts["prune-collapses"]["status"] == "skipped"
    assert "No super weight was located" in verdicts["prune-collapses"]["because"]
    assert program.record()["locations"]["control"]["outcome"] == "none"
    assert ending.code == code
    if expect == "some":
        assert "expect" in verdicts["super-weight-located"]["remedy"]
