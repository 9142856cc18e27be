"""Modules are ranked by the relative error of their weights, whatever holds them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.checkpoints import EXPERTS
from support.experts import make_experts
from support.planted import build_gpt2, build_llama, wrap_model
from torch import nn

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.measure.descent import rank_modules
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import WeightAddress
from sw_audit.specimen import specimen_path

NAME = "model.layers.1.mlp.down_proj.weight"
MIXTRAL = next(family for family in EXPERTS if family.model_type == "mixtral")


def pick(checkpoint: Checkpoint, layer: int, ending: str) -> torch.Tensor:
    return next(one.weight for one in checkpoint.layers[layer].matrices if one.parameter.endswith(ending))


def test_the_worst_comes_first_with_its_relative_error() -> None:
    parent = wrap_model(build_llama(layers=3))
    descendant = wrap_model(copy.deepcopy(parent.model))
    pick(descendant, 2, "down_proj.weight").mul_(0.5)
    pick(descendant, 0, "q_proj.weight").mul_(-1.0)
    ranked = rank_modules(parent, descendant)
    assert ranked[0] == ("model.layers.0.self_attn.q_proj", pytest.approx(2.0, rel=1e-9))
    assert ranked[1] == ("model.layers.2.mlp.down_proj", pytest.approx(0.5, rel=1e-9))
    assert len(ranked) == 3 * 7
    assert {error for _, error in ranked[2:]} == {0.0}


def test_what_is_not_finite_comes_before_all_others() -> None:
    parent = wrap_model(build_gpt2(layers=2))
    descendant = wrap_model(copy.deepcopy(parent.model))
    pick(descendant, 0, "c_fc.weight").mul_(1e6)
    pick(descendant, 1, "mlp.c_proj.weight")[0, 0] = math.nan
    ranked = rank_modules(parent, descendant)
    assert ranked[0] == ("transformer.h.1.mlp.c_proj", None)
    assert ranked[1][0] == "transformer.h.0.mlp.c_fc"


def test_the_experts_of_a_module_count_together() -> None:
    parent = wrap_model(make_experts(MIXTRAL))
    descendant = wrap_model(copy.deepcopy(parent.model))
    experts: Any = descendant.model.model.layers[1].mlp.experts
    experts.down_proj[2] = 0.0
    [(name, error), *others] = rank_modules(parent, descendant)
    noise = float(parent.model.model.layers[1].mlp.experts.down_proj[2].double().square().sum())
    signal = sum(
        float(one.double().square().sum()) for one in parent.model.model.layers[1].mlp.experts.parameters()
    )
    assert name == "model.layers.1.mlp.experts"
    assert error == pytest.approx(math.sqrt(noise / signal), rel=1e-6)
    assert {one for _, one in others} == {0.0}


class Halved(nn.Module):
    """A module that multiplies by half of a matrix that it does not show."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.register_buffer("code", linear.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code: Any = self.code
        return 0.5 * nn.functional.linear(x, code)


def test_a_matrix_that_can_only_be_probed_is_sampled_also_beside_a_parent_that_is_read_by_layers() -> None:
    wanted = ModelPolicy(source=str(specimen_path()))
    model: Any = open_checkpoint(wanted).model
    block = model.model.layers[1].mlp
    block.down_proj = Halved(block.down_proj)
    asked: list[int] = []
    plain = block.down_proj.forward
    block.down_proj.forward = lambda x: (asked.append(x.shape[1]), plain(x))[1]
    ranked = rank_modules(open_streaming(wanted), wrap_model(model))
    assert ranked[0] == ("model.layers.1.mlp.down_proj", pytest.approx(0.5, rel=1e-5))
    # 192 columns there are; 64 are looked at, and what the module gives for nothing is asked once.
    assert sum(asked) <= 64 + 4
    assert {error for _, error in ranked[1:]} == {0.0}


def test_of_a_sampled_matrix_the_columns_of_super_weights_count_and_stand_for_themselves() -> None:
    wanted = ModelPolicy(source=str(specimen_path()))
    model: Any = open_checkpoint(wanted).model
    down = model.model.layers[1].mlp.down_proj
    whole = down.weight.detach().clone()
    down.weight[5, 7] = 0.0
    model.model.layers[1].mlp.down_proj = Halved(down)
    model.model.layers[1].mlp.down_proj.code.mul_(2.0)
    parent, address = open_streaming(wanted), WeightAddress(parameter=NAME, row=5, column=7)
    [(name, error), *_] = rank_modules(parent, wrap_model(model), [address])
    # All that differs is one scalar, and only its column is known as it is.
    others = whole.double()[:, [column for column in range(192) if column != 7]]
    sampled = others[:, torch.linspace(0, 190, 64).long()].square().sum() * 191 / 64
    expected = 3.2412286**2 / (float(whole[:, 7].double().square().sum()) + float(sampled))
    assert f"{name}.weight" == NAME
    assert error == pytest.approx(math.sqrt(expected), rel=1e-5)
    assert rank_modules(parent, wrap_model(model))[0][1] == 0.0


def test_what_only_one_of_the_two_has_or_in_another_shape_is_left_out() -> None:
    parent = wrap_model(build_llama(layers=2))
    model = copy.deepcopy(parent.model)
    blocks: Any = model.model.layers
    blocks[0].mlp.down_proj = nn.Linear(100, 48, bias=False)
    blocks[1].mlp.extra = nn.Linear(48, 48, bias=False)
    names = [name for name, _ in rank_modules(parent, wrap_model(model))]
    assert len(names) == 2 * 7 - 1
    assert "model.layers.0.mlp.down_proj" not in names
    assert "model.layers.1.mlp.extra" not in names
