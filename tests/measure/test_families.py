"""In every family arms side by side give what separate runs give, bit for bit, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from support.checkpoints import DEEPSEEK, DENSE, EXPERTS, VISION, Family, make_model
from support.experts import make_experts
from support.planted import wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.engine import run_arms
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Quantize, Scale, SetTo

MIXED = (*EXPERTS, *DEEPSEEK)
# One for each way of calling layers, of returning from them, and of keeping their matrices.
QUICK = {"bloom", "falcon", "gptj", "gpt_neo", "gpt2", "opt", "mixtral", "gpt_oss", "deepseek_v3", "qwen2_vl"}
RECIPE = parse_recipe("int4/16x16")
ROW, COLUMN, LAYER = 17, 11, 1


def open_family(family: Family) -> Checkpoint:
    return wrap_model(make_experts(family) if family in MIXED else make_model(family))


def batches() -> list[torch.Tensor]:
    texts = torch.randint(3, 60, (5, 9), generator=torch.Generator().manual_seed(3))
    texts[:, 0] = 1
    return [texts[:3], texts[3:], texts[:2, :4]]


def weight_of(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.layers[LAYER].down_projections[-1].weight


def scaled_(checkpoint: Checkpoint) -> None:
    weight_of(checkpoint)[ROW, COLUMN] *= 300.0


def set_(checkpoint: Checkpoint) -> None:
    weight_of(checkpoint)[ROW, COLUMN] = -25.0


def rounded_(checkpoint: Checkpoint) -> None:
    kept = weight_of(checkpoint)[ROW, COLUMN].clone()
    for layer in checkpoint.layers:
        for matrix in layer.matrices:
            own = matrix.weight.data_ptr() == weight_of(checkpoint).data_ptr()
            holdout = (torch.tensor([ROW]), torch.tensor([COLUMN])) if own else None
            matrix.weight.copy_(round_to_nearest(matrix.weight, RECIPE, holdout))
    assert weight_of(checkpoint)[ROW, COLUMN] == kept


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=str(family), marks=() if str(family) in QUICK else pytest.mark.slow)
        for family in (*DENSE, *VISION, *EXPERTS, *DEEPSEEK)
    ],
)
def test_arms_side_by_side_equal_separate_runs_bit_for_bit(family: Family) -> None:
    checkpoint = open_family(family)
    down = checkpoint.layers[LAYER].down_projections[-1]
    group = (AddressGroup(parameter=down.parameter, rows=(ROW,), columns=(COLUMN,), expert=down.expert),)
    changes: dict[Arm, Callable[[Checkpoint], None]] = {
        BASELINE: lambda _: None,
        Arm(name="scaled", acts=(Scale(addresses=group, factor=300.0),)): scaled_,
        Arm(name="set", acts=(SetTo(addresses=group, value=-25.0),)): set_,
        Arm(name="rounded", acts=(Quantize(recipe=RECIPE, holdout=group),)): rounded_,
    }
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def read(batch: int, arm: int, logits: torch.Tensor, _: torch.Tensor) -> None:
        seen[batch, arm] = logits.clone()

    run_arms(checkpoint, list(changes), batches(), read)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.model.state_dict().items())
    for number, change_ in enumerate(changes.values()):
        alone = wrap_model(copy.deepcopy(checkpoint.model))
        with torch.no_grad():
            change_(alone)
            for batch, token_ids in enumerate(batches()):
                expected = alone.model(input_ids=token_ids, use_cache=False).logits
                assert torch.equal(seen[batch, number], expected), (number, batch)
        assert number == 0 or not torch.equal(seen[0, 0], seen[0, number])
