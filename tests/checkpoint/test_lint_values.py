"""What a static look finds in files that are whole: values without information, scales that cannot be, lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import EXPERTS, LLAMA, rewrite_config, rewrite_weights, save_checkpoint
from support.linting import lint, only
from torch import Tensor

from sw_audit.checkpoint.lint import count_inside, cut_blocks

Tensors = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"
MODULE = DOWN.removesuffix(".weight")
DATA = Path(__file__).parents[1] / "formats" / "data"


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A Llama whose down-projections are 128 by 512: eight runs of 64 in a row."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 32}
    return save_checkpoint(tmp_path / "wide", LLAMA, **sizes)


def copy(made: str, folder: Path, change_: Callable[[Tensors], object] = lambda _: None, **config: Any) -> Path:
    """Copy a quantized checkpoint, with tensors and the quantization config changed."""
    shutil.copytree(DATA / made, folder)
    rewrite_weights(folder, change_)
    declared = json.loads((folder / "config.json").read_text())["quantization_config"]
    return rewrite_config(folder, quantization_config={**declared, **config})


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_matrix_of_one_value_is_serious(value: float, wide: Path) -> None:
    report = lint(rewrite_weights(wide, lambda tensors: tensors[DOWN].fill_(value)))
    assert only(report) == ("constant", DOWN, f"it is {value:g} in every place", True)
    assert report.remedy is not None


def test_one_value_that_differs_makes_a_matrix_no_constant(wide: Path) -> None:
    def spare_(tensors: Tensors) -> None:
        tensors[DOWN].fill_(0.5)
        tensors[DOWN][100, 300] = 0.25

    assert lint(rewrite_weights(wide, spare_)).intact


def test_an_expert_of_zeros_in_a_stack_is_serious(tmp_path: Path) -> None:
    gpt_oss = next(family for family in EXPERTS if family.model_type == "gpt_oss")
    name = "model.layers.1.mlp.experts.down_proj"
    folder = rewrite_weights(save_checkpoint(tmp_path, gpt_oss), lambda tensors: tensors[name][2].zero_())
    assert only(lint(folder)) == ("constant", name, "1 of its 4 experts are 0 in every place", True)


def test_a_group_of_zeros_inside_a_matrix_is_serious(wide: Path) -> None:
    report = lint(rewrite_weights(wide, lambda tensors: tensors[DOWN][17, 128:192].zero_()))
    found = "1 of 1024 runs of 64 weights along the input are zero, 1 of them in rows and columns that are not"
    assert only(report) == ("zero-group", DOWN, found, True)


def test_a_group_one_short_of_zeros_is_nothing(wide: Path) -> None:
    assert lint(rewrite_weights(wide, lambda tensors: tensors[DOWN][17, 128:191].zero_())).flaws == ()


def test_blocks_inside_are_those_in_no_blank_row_or_column() -> None:
    blank = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1]], dtype=torch.bool)
    # The first row and the first column are blank as a whole; what is left is the last corner.
    assert count_inside(blank) == 1


def test_codes_are_cut_into_the_blocks_of_their_scales() -> None:
    # GPTQ: eight inputs in a word, groups of 16 inputs, three outputs.
    codes = torch.arange(4 * 3, dtype=torch.int32).reshape(4, 3)
    blocks = cut_blocks(codes, torch.ones(2, 3))
    assert blocks is not None
    assert blocks.shape == (2, 3, 8)
    # The block of the second group and the last output: words 8 and 11, lowest byte first.
    assert blocks[1, 2].tolist() == [8, 0, 0, 0, 11, 0, 0, 0]
    # A scale for each row; one for each block of a flat tensor; experts, stacked; what does not fit.
    assert cut_blocks(codes, torch.ones(4)).shape == (4, 1, 12)  # type: ignore[union-attr]
    assert cut_blocks(codes.reshape(12, 1), torch.ones(3)).shape == (3, 1, 16)  # type: ignore[union-attr]
    fours = torch.zeros(2, 5, 6, 16, dtype=torch.uint8)
    assert cut_blocks(fours, torch.ones(2, 5, 6)).shape == (10, 6, 16)  # type: ignore[union-attr]
    assert cut_blocks(codes, torch.ones(4, 24)) is None


def lose_(suffix: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(f"{MODULE}.{suffix}")


@pytest.mark.parametrize(
    ("made", "suffix"),
    [("llm-compressor-W4A16", "weight_scale"), ("auto-round-gptq", "scales"), ("auto-round-awq", "scales")],
)
def test_codes_without_their_scales_are_serious(made: str, suffix: str, tmp_path: Path) -> None:
    kind, where, found, serious = only(lint(copy(made, tmp_path / "it", lose_(suffix))))
    assert (kind, where, serious) == ("missing-tensor", f"{MODULE}.{suffix}", True)
    assert found.startswith(f"the scales of {MODULE}.")


def zero_scale_(tensors: Tensors) -> None:
    tensors[f"{MODULE}.weight_scale"][3, 1] = 0


def level_scales_(tensors: Tensors) -> None:
    tensors[f"{MODULE}.weight_scale"].fill_(1)


def blank_group_(tensors: Tensors) -> None:
    # Groups of 32 take four words of eight codes; 8 stands for zero.
    word = int.from_bytes(b"\x88\x88\x88\x88", "little", signed=True)
    tensors[f"{MODULE}.weight_packed"][3, 4:8] = word


@pytest.mark.parametrize(
    ("change_", "kind", "where", "found"),
    [
        (zero_scale_, "degenerate-scale", "weight_scale", "1 of 384 scales are zero, though the codes under them"),
        (level_scales_, "degenerate-scale", "weight_scale", "all 384 scales are 1, as if they had never been set"),
        (blank_group_, "zero-group", "weight_packed", "1 of 384 groups of codes are constant under a scale"),
    ],
    ids=["zero", "level", "blank"],
)
def test_scales_and_codes_that_cannot_be_are_serious(
    change_: Callable[[Tensors], object], kind: str, where: str, found: str, tmp_path: Path
) -> None:
    report = lint(copy("llm-compressor-W4A16", tmp_path / "it", change_))
    told = only(report)
    assert (told[0], told[1], told[3]) == (kind, f"{MODULE}.{where}", True)
    assert told[2].startswith(found)


def test_a_scale_that_is_no_number_is_serious(tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        tensors[f"{MODULE}.weight_scale"][0, 0] = float("inf")

    report = lint(copy("llm-compressor-W4A16", tmp_path / "it", spoil_))
    assert only(report) == ("non-finite", f"{MODULE}.weight_scale", "it holds 1 infinite value", True)


def test_nan_among_bytes_of_eight_bits_is_found(tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        # All ones but for the sign is NaN in E4M3.
        tensors[DOWN].view(torch.uint8)[2, 2] = 0x7F

    report = lint(copy("llm-compressor-FP8", tmp_path / "it", spoil_))
    assert only(report) == ("non-finite", DOWN, "it holds 1 NaN", True)


def test_a_power_of_two_that_is_nan_is_found(tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        tensors[f"{MODULE}.weight_scale"][1, 1] = 0xFF

    kind, where, _, serious = only(lint(copy("llm-compressor-MXFP4A16", tmp_path / "it", spoil_)))
    assert (kind, where, serious) == ("degenerate-scale", f"{MODULE}.weight_scale", True)


@pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 64}], ids=str)
@pytest.mark.parametrize("made", ["auto-round-gptq", "auto-round-awq"])
def test_bits_and_groups_that_the_codes_have_not_are_serious(
    made: str, change: dict[str, int], tmp_path: Path
) -> None:
    report = lint(copy(made, tmp_path / "it", **change))
    assert {flaw.kind for flaw in report.flaws} == {"mismatched-tensor"}
    # Six layers of seven matrices each; no more than five are listed.
    assert (report.counts, report.serious, len(report.flaws)) == ({"mismatched-tensor": 42}, 42, 5)


def test_codes_of_another_library_than_the_configuration_names_are_serious(tmp_path: Path) -> None:
    folder = copy("llm-compressor-W4A16", tmp_path / "it", quant_method="gptq", bits=4, group_size=32)
    kind, where, found, _ = only(lint(folder))
    assert (kind, where) == ("config-without-codes", "config.json")
    assert found.startswith("config.json says gptq, and no tensor ends in .qweight, but model.layers.0.")
