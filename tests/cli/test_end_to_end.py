"""The shipped models through the command line: what a user meets first, and what a gate is for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.program import Program

from sw_audit.checks.registry import find_checks
from sw_audit.record.verdict import Status
from sw_audit.specimen.shipped import specimen_path

CHECKS = ("super-weight-located", "prune-collapses", "other-outliers-harmless")
# As few as give a verdict, and the arms of three checks: measuring itself is tested in its own room.
FEW = ("--windows=8", "--no-report", *(f"--check={check}" for check in CHECKS))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests may share the cores with others, whose threads would wait for these."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def maimed(program: Program) -> Path:
    """A copy of the specimen whose super weight is zeroed."""
    (weight,) = json.loads(program.run("locate", "specimen", "--json").out)["super_weights"]
    copy = program.folder / "maimed"
    shutil.copytree(specimen_path(), copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[weight["parameter"]][weight["row"], weight["column"]] = 0.0
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.slow
def test_the_specimen_passes_every_check_that_applies_and_leaves_three_files(program: Program) -> None:
    ending = program.run("audit", "specimen", "--windows=16")
    assert (ending.code, ending.err) == (0, "")
    assert "skipped specimen matches-published-index: " in ending.out
    alone = [check for check in find_checks().values() if check.scope == "model"]
    assert ending.out.splitlines()[-1] == f"PASSED: {len(alone) - 1} pass, 1 skipped"
    assert program.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


@pytest.mark.slow
def test_a_copy_that_lost_its_super_weight_fails_and_says_why(program: Program, maimed: Path) -> None:
    ending = program.run("audit", maimed, *FEW)
    assert ending.code == 1
    assert "FAIL maimed super-weight-located" in ending.out
    for label in ("because", "to do"):
        assert f"  {label}" in ending.out
    failed = [one.check for one in program.record().verdicts if one.status is Status.FAIL]
    assert all(f"FAIL maimed {check}" in ending.out for check in failed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expect", "code", "status"), [("some", 1, "fail"), ("none", 0, "pass"), ("any", 0, "skipped")]
)
def test_the_control_is_judged_by_what_is_expected(program: Program, expect: str, code: int, status: str) -> None:
    ending = program.run("audit", "control", f"--expect={expect}", *FEW)
    verdicts = {one.check: one for one in program.record().verdicts}
    assert ending.code == code
    assert [str(verdicts[check].status) for check in CHECKS] == [status, "skipped", "pass"]
    assert "No super weight was located" in verdicts["prune-collapses"].because
    assert program.record().find_model("control").location.outcome == "none"
    if expect == "some":
        assert "expect" in (verdicts["super-weight-located"].remedy or "")


@pytest.mark.slow
def test_models_are_shared_among_workers(program: Program) -> None:
    ending = program.start("audit", "specimen", "control", "-n", "2", *FEW)
    assert (ending.code, ending.err) == (1, "")
    assert ending.out.splitlines()[-1] == "FAILED: 4 pass, 1 fail, 1 skipped"
    assert [model.id for model in program.record().models] == ["specimen", "control"]
    (program.folder / "broken").mkdir()
    broken = program.start("audit", "./broken", "-n", "2")
    assert (broken.code, broken.out, len(broken.complaints)) == (2, "", 1)
