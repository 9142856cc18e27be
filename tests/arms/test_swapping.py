"""The parent's modules in the place of a descendant's."""

from __future__ import annotations

import copy

import pytest
import torch
from support.checkpoints import LLAMA
from support.engine import LAYER, collect, copy_of, disturb, equals, make_arm, open_family, run_alone
from torch import nn

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.record.arm import Arm, SwapModules

AS_IT_IS = [make_arm(label="parent"), make_arm(label="descendant")]


def swap(module: str) -> Arm:
    return make_arm(SwapModules(modules=(f"model.layers.{LAYER}.{module}",)), label="swapped")


def test_a_swapped_module_computes_in_the_dtype_of_the_parent() -> None:
    parent = open_family(LLAMA)
    descendant = copy_of(parent, dtype=torch.bfloat16)
    seen = collect(descendant, [*AS_IT_IS, swap("mlp.down_proj")], parent=parent)

    def put_module_(model: Checkpoint) -> None:
        wide = copy.deepcopy(parent.layers[LAYER].module.mlp.down_proj)
        wide.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        wide.register_forward_hook(lambda _, __, output: output.bfloat16())
        model.layers[LAYER].module.mlp.down_proj = wide

    assert equals(seen, 2, run_alone(descendant, put_module_))
    assert not torch.equal(seen[0, 2], seen[0, 1])


@pytest.mark.parametrize(
    ("module", "who"), [("mlp.gone", "the model has no such"), ("mlp.extra", "the parent has no such")]
)
def test_a_module_that_one_of_the_two_lacks_cannot_be_swapped(module: str, who: str) -> None:
    parent = open_family(LLAMA)
    descendant = disturb(parent)
    descendant.layers[LAYER].module.mlp.extra = nn.Identity()
    with pytest.raises(CheckpointError, match=who):
        collect(descendant, [*AS_IT_IS, swap(module)], parent=parent)
    assert equals(collect(descendant, AS_IT_IS, parent=parent), 1, run_alone(descendant))


def test_nothing_can_be_swapped_where_there_is_no_parent() -> None:
    with pytest.raises(ValueError, match="only where a parent runs"):
        collect(open_family(LLAMA), [AS_IT_IS[1], swap("mlp.down_proj")])
