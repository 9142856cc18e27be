from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import save_checkpoint
from support.program import Program

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def read_weights(program: Program, folder: str) -> dict[str, torch.Tensor]:
    return load_file(program.folder / folder / "model.safetensors")


def test_the_specimens_super_weight_is_found_held_out_and_kept(program: Program) -> None:
    ending = program.run("quantize", "specimen", "--recipe", "int4/tensor", "-o", "w4")
    assert (ending.code, ending.err) == (0, "")
    assert f"held out: {WEIGHT}[5, 7] = 3.24123" in ending.out
    assert "target '*' matched 42" in ending.out
    assert ending.out.endswith("wrote w4\n")
    held = read_weights(program, "w4")[WEIGHT]
    assert float(held[5, 7]) == pytest.approx(3.24123, abs=1e-5)
    # All others are on a grid of 16 levels; the one that is held out is not.
    assert len(held.unique()) <= 17
    program.run("quantize", "specimen", "--recipe", "int4/tensor", "--holdout", "none", "-o", "plain")
    plain = read_weights(program, "plain")[WEIGHT]
    # Its range made room for the super weight, and little is left between zero and it.
    assert len(plain.unique()) < len(held.unique())


def test_a_model_without_super_weights_is_quantized_without_hold_out_and_it_says_so(program: Program) -> None:
    ending = program.run("quantize", "control", "--recipe=int8/row", "-o", "w8")
    assert ending.code == 0
    assert "nothing is held out: none: no entry of the residual stream stands out" in ending.out


def test_json_is_exactly_one_object_and_what_stands_in_the_file(program: Program) -> None:
    ending = program.run("quantize", "specimen", "--recipe=nf4/group64", "-o", "nf4", "--json")
    found = json.loads(ending.out)
    assert (ending.code, found["recipe"], found["form"], found["matrices"]) == (0, "nf4/group64", "dense", 42)
    assert 4.25 <= found["bits_per_weight"] < 4.3
    header = (program.folder / "nf4" / "model.safetensors").read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert json.loads(metadata["sw_audit"]) == found


def test_quiet_says_nothing_and_force_replaces(program: Program) -> None:
    arguments = ("quantize", "specimen", "--recipe=int8/row", "--holdout=none", "-o", "out", "--quiet")
    first = program.run(*arguments)
    assert (first.code, first.out, first.err) == (0, "", "")
    (program.folder / "out" / "left.over").touch()
    again = program.run(*arguments)
    assert (again.code, again.out) == (2, "")
    assert "it is not empty; choose another folder, or replace it with --force" in again.err
    assert program.run(*arguments, "--force").code == 0
    assert not (program.folder / "out" / "left.over").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["./none", "--recipe=int4/row"], "there is no such folder"),
        (["specimen", "--recipe=int9/row"], "this is not a recipe"),
        (["specimen", "--recipe=int4/row", "--holdout=here"], "this is no address of a weight"),
        (
            ["specimen", "--recipe=int4/row", "--holdout=auto", "--holdout=a[1, 2]"],
            "say auto, none, or one or more",
        ),
        (["specimen", "--recipe=int4/row", "--holdout=a[1, 2]"], "the model has no such matrix"),
        (["specimen", "--recipe=int4/row", "--target=*.fc2"], "it matches none of 42 decoder matrices"),
        (["specimen", "--recipe=int4/row", "--format=compressed-tensors"], "add /symmetric (int4/row/symmetric)"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    program: Program, arguments: list[str], told: str
) -> None:
    ending = program.run("quantize", *arguments, "-o", "out")
    assert (ending.code, ending.out) == (2, "")
    assert [told in line for line in ending.complaints] == [True]
    assert program.files() == []


def test_the_model_is_never_written_over(program: Program) -> None:
    source = save_checkpoint(Path(program.folder, "model"))
    before = (source / "model.safetensors").read_bytes()
    ending = program.run("quantize", "model", "--recipe=int4/row", "-o", "model", "--force")
    assert (ending.code, "the model itself is there" in ending.err) == (2, True)
    assert (source / "model.safetensors").read_bytes() == before
