"""The program on descendants whose weights are not intact: the run goes on, and its exit code says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.checkpoints import rewrite_weights, save_checkpoint
from support.program import Program

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def policy(program: Program) -> Path:
    """Two descendants of one parent: one with NaN in it, one that is cut off."""
    parent = save_checkpoint(program.folder / "parent")
    for name in ("nan", "cut"):
        shutil.copytree(parent, program.folder / name)
    rewrite_weights(program.folder / "nan", lambda tensors: tensors[DOWN][0].fill_(float("nan")))
    weights = program.folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    tables = [f'[[model]]\nsource = "{name}"\nparent = "./parent"\n' for name in ("nan", "cut")]
    path = program.folder / "it.swaudit.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def waive(policy: Path, model: str, until: str) -> None:
    keys = f'check = "weights-intact"\nmodel = "{model}"\nuntil = {until}\nowner = "Ada"\nreason = "known"\n'
    policy.write_text(f"{policy.read_text()}\n[[waiver]]\n{keys}", encoding="utf-8")


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "shared"]
)
def test_broken_descendants_fail_the_run_each_with_its_reason(
    workers: tuple[str, ...], program: Program, policy: Path
) -> None:
    ending = program.run("audit", policy, *workers)
    assert (ending.code, ending.err) == (1, "")
    assert "FAIL nan weights-intact: serious flaws 1, limit 0" in ending.out
    assert "FAIL cut weights-intact: serious flaws 1, limit 0" in ending.out
    assert f"because   {DOWN}: it holds 40 NaN." in ending.out
    assert "because   model.safetensors: model.safetensors is cut off" in ending.out
    assert ending.out.splitlines()[-1] == "FAILED: 2 fail, 22 skipped"
    failures = program.record().failures
    assert [one.id for one in failures] == ["nan", "cut"]
    assert [one.weights.flaws[0].kind for one in failures if one.weights] == ["non-finite", "unreadable"]
    assert (program.folder / "sw-audit-out" / "report.html").exists()


def test_waivers_that_live_let_the_run_pass_and_are_shown(program: Program, policy: Path) -> None:
    waive(policy, "nan", "2999-12-31")
    assert program.run("audit", policy).code == 1
    waive(policy, "*", "2999-12-30")
    ending = program.run("audit", policy)
    assert (ending.code, ending.err) == (0, "")
    assert "waived nan weights-intact until 2999-12-31 by Ada: known" in ending.out
    assert "waived cut weights-intact until 2999-12-30 by Ada: known" in ending.out
    assert ending.out.splitlines()[-1] == "PASSED: 22 skipped, 2 waived"


def test_a_waiver_that_has_expired_fails_the_run_and_says_so(program: Program, policy: Path) -> None:
    waive(policy, "*", "2020-01-01")
    ending = program.run("audit", policy)
    assert ending.code == 1
    assert "The waiver of Ada expired on 2020-01-01 (known)." in ending.out


def test_a_parent_that_is_broken_is_an_error_of_the_input(program: Program, policy: Path) -> None:
    weights = program.folder / "parent" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    ending = program.run("audit", policy)
    assert ending.code == 2
    [line] = ending.complaints
    assert "parent'" in line
    assert "is cut off" in line


def test_a_descendant_that_is_not_there_is_an_error_of_the_input(program: Program, policy: Path) -> None:
    shutil.rmtree(program.folder / "nan")
    policy.write_text(policy.read_text().replace('"nan"', '"./nan"'))
    ending = program.run("audit", policy)
    assert ending.code == 2
    [line] = ending.complaints
    assert "there is no such folder" in line
