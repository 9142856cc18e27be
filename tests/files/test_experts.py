"""Experts in a descendant's files: packed by hand, one of them broken in a way in which libraries break it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.checkpoints import LLAMA, rewrite_config, rewrite_weights, save_checkpoint
from support.engine import MIXED
from support.experts import W4A8, pack_expert_

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.files.experts import compare_experts
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.experts import ComparedExperts, SiblingExperts

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.1.mlp.experts"
DOWN = f"{LAYER}.2.down_proj"
SIZES = {"hidden_size": 64, "moe_intermediate_size": 64, "head_dim": 32}


def compare(
    tmp_path: Path,
    break_: Callable[[Tensors], object] = lambda _: None,
    *,
    plain: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> ComparedExperts:
    """Pack every expert's matrix but those that stay plain, break something, and compare with the parent."""
    parent = save_checkpoint(tmp_path / "parent", MIXED["qwen3_moe"], **SIZES)
    folder = Path(shutil.copytree(parent, tmp_path / "packed"))

    def quantize_(tensors: Tensors) -> None:
        for name in [name.removesuffix(".weight") for name in tensors if ".experts." in name]:
            if name not in plain:
                pack_expert_(tensors, name)
        break_(tensors)

    rewrite_weights(folder, quantize_)
    rewrite_config(folder, quantization_config={**W4A8, "ignore": [*W4A8["ignore"], *ignore]})  # type: ignore[misc]
    return compare_experts(*(CheckpointFolder.require(ModelPolicy(source=str(one))) for one in (folder, parent)))


def find(experts: ComparedExperts, matrix: str = "down_proj") -> SiblingExperts:
    [found] = [one for one in experts.siblings if one.name == f"{LAYER}.*.{matrix}.weight"]
    return found


def test_experts_that_were_quantized_alike_have_errors_alike(tmp_path: Path) -> None:
    experts = compare(tmp_path)
    # 3 layers of 4 experts with 3 matrices each.
    assert (experts.experts, experts.compared, len(experts.siblings), experts.scales) == (12, 36, 9, ())
    for siblings in experts.siblings:
        assert (siblings.count, siblings.unquantized, siblings.left_out) == (4, (), ())
        assert siblings.usual is not None
        assert 0.05 < siblings.usual < 0.2
        assert all(error is not None and error < 1.2 * siblings.usual for _, error in siblings.worst)


def test_an_error_is_the_norm_of_the_difference_over_that_of_the_parent(tmp_path: Path) -> None:
    def halve_(tensors: Tensors) -> None:
        tensors[f"{DOWN}.weight_scale"] *= 0.0

    siblings = find(compare(tmp_path, halve_))
    assert siblings.worst[0] == (2, 1.0)  # all of it is lost
    assert siblings.usual is not None
    assert siblings.usual < 0.2


def test_an_expert_whose_scales_are_another_is_the_worst_of_its_siblings(tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        tensors[f"{DOWN}.weight_scale"] *= 1.5

    siblings = find(compare(tmp_path, spoil_))
    expert, error = siblings.worst[0]
    assert expert == 2
    assert error == pytest.approx(0.5, rel=0.1)
    assert error > 3 * siblings.usual  # type: ignore[operator]


def test_a_scale_that_is_not_finite_makes_an_error_that_is_not(tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        tensors[f"{DOWN}.weight_scale"][3] = math.nan

    siblings = find(compare(tmp_path, spoil_))
    assert siblings.worst[0] == (2, None)
    assert siblings.usual is not None


def test_an_expert_that_stayed_plain_among_codes_is_named_and_is_no_measure_for_its_siblings(
    tmp_path: Path,
) -> None:
    experts = compare(tmp_path, plain=(DOWN,))
    siblings = find(experts)
    assert (siblings.unquantized, siblings.left_out) == ((2,), ())
    assert 2 not in dict(siblings.worst)
    assert siblings.usual is not None
    assert siblings.usual > 0.05
    assert find(experts, "up_proj").unquantized == ()


def test_one_that_the_configuration_leaves_out_is_told_apart(tmp_path: Path) -> None:
    siblings = find(compare(tmp_path, plain=(DOWN,), ignore=(DOWN,)))
    assert (siblings.unquantized, siblings.left_out) == ((), (2,))


def test_where_most_are_plain_none_was_passed_over(tmp_path: Path) -> None:
    plain = tuple(f"{LAYER}.{expert}.down_proj" for expert in range(3))
    siblings = find(compare(tmp_path, plain=plain))
    assert siblings.unquantized == ()
    assert siblings.worst[0][0] == 3


@pytest.mark.parametrize(("value", "told"), [(0.0, 0.0), (math.nan, None), (1e6, 1e6), (1e-6, 1e-6)])
def test_a_scale_of_what_enters_that_no_token_set_is_named(
    tmp_path: Path, value: float, told: float | None
) -> None:
    def unset_(tensors: Tensors) -> None:
        tensors[f"{DOWN}.input_scale"][0] = value

    [scale] = compare(tmp_path, unset_).scales
    assert scale.name == f"{DOWN}.input_scale"
    assert scale.value == (told if told is None else pytest.approx(told))
    assert scale.usual == pytest.approx(0.02)


def test_experts_that_are_fused_in_the_files_are_told_apart(tmp_path: Path) -> None:
    parent = save_checkpoint(tmp_path / "parent", MIXED["gpt_oss"])
    folder = Path(shutil.copytree(parent, tmp_path / "rounded"))

    def round_(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(("experts.down_proj", "experts.gate_up_proj"))]:
            step = tensors[name].abs().amax(dim=(1, 2), keepdim=True) / 7
            step[2] *= 6 if name == f"{LAYER}.down_proj" else 1
            tensors[name] = (tensors[name] / step).round() * step

    rewrite_weights(folder, round_)
    experts = compare_experts(
        *(CheckpointFolder.require(ModelPolicy(source=str(one))) for one in (folder, parent))
    )
    assert (experts.experts, experts.compared) == (12, 24)
    [siblings] = [one for one in experts.siblings if one.name == f"{LAYER}.down_proj"]
    expert, error = siblings.worst[0]
    assert expert == 2
    assert error > 3 * siblings.usual  # type: ignore[operator]


def test_a_dense_model_has_none(tmp_path: Path) -> None:
    folders = [
        CheckpointFolder.require(ModelPolicy(source=str(save_checkpoint(tmp_path / one, LLAMA)))) for one in "ab"
    ]
    assert compare_experts(*folders) == ComparedExperts()
