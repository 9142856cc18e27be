"""`sw-audit fingerprint`: the specimen, a fine-tuned descendant, and the control, which is no kin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.evidence import make_record
from support.program import Program
from support.tuning import make_trainer, save

from sw_audit.record.store import encode_record, keep_baseline


@pytest.fixture
def tuned(program: Program) -> Path:
    """The specimen after two optimizer steps."""
    trainer = make_trainer(program.folder, steps=2)
    trainer.train()
    return save(trainer, program.folder / "tuned")


def kinship(text: str) -> dict[str, Any]:
    return {one["other"]: one for one in json.loads(text)["kinship"]}


def test_a_fine_tuned_model_looks_like_a_descendant_of_its_parent_and_not_of_the_control(
    program: Program, tuned: Path
) -> None:
    ending = program.run("fingerprint", tuned, "--against", "control", "--against", "specimen", "--json")
    assert ending.code == 0
    found = kinship(ending.out)
    assert list(found) == ["specimen", "control"]
    assert found["specimen"]["kin"] == "close"
    assert 0 < found["specimen"]["drift"] < 0.001
    assert found["control"]["kin"] == "none"
    assert json.loads(ending.out)["code"] == "llama/6x64 1[5,7]=+3.241"
    assert "evidence, not proof" in json.loads(ending.out)["caution"]


def test_without_kin_the_program_ends_with_3_and_says_so(program: Program) -> None:
    ending = program.run("fingerprint", "control", "--against", "specimen")
    assert ending.code == 3
    assert "no super weight was located" in ending.out
    assert "a descendant of nothing that it was compared with" in ending.out


def test_baselines_that_are_kept_here_are_compared_with_and_so_is_the_index(program: Program) -> None:
    keep_baseline("mine", make_record())
    ending = program.run("fingerprint", "mine", "--json")
    assert ending.code == 0
    assert next(iter(kinship(ending.out))).endswith("(mine)")
    (program.folder / "record.json").write_text(encode_record(make_record()), encoding="utf-8")
    assert program.run("fingerprint", "record.json", "--json").code == 0


def test_what_is_no_model_is_one_line_and_2(program: Program) -> None:
    ending = program.run("fingerprint", "./gone")
    assert (ending.code, ending.out, len(ending.complaints)) == (2, "", 1)
    ending = program.run("fingerprint", "specimen", "--against", "gone.toml")
    assert (ending.code, len(ending.complaints)) == (2, 1)
