"""An expert that is zeroed adds nothing, as if its weights had been zero for good; afterwards no bit differs."""

from __future__ import annotations

import pytest
import torch
from support.engine import EXPERT, LAYER, MIXED, collect, copy_of, equals, make_arm, open_experts, run_alone

from sw_audit.arms.apply import applied_arm, touches
from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.record.arm import BASELINE, Arm, ZeroExperts
from sw_audit.record.experts import ExpertAddress


def name_expert(checkpoint: Checkpoint, layer: int = LAYER, number: int = EXPERT) -> ExpertAddress:
    down = checkpoint.layers[layer].experts[number]
    return ExpertAddress(layer=layer, number=number, parameter=down.parameter, expert=down.expert)


def zero(*experts: ExpertAddress) -> Arm:
    return make_arm(ZeroExperts(experts=experts))


def remove_(checkpoint: Checkpoint) -> None:
    down = checkpoint.layers[LAYER].experts[EXPERT]
    down.weight.zero_()
    if down.bias is not None:
        down.bias.zero_()


@pytest.mark.parametrize("name", [*sorted(MIXED), "apart"])
def test_it_is_a_model_whose_experts_down_projection_was_zeroed_for_good_bit_for_bit(name: str) -> None:
    checkpoint = open_experts(name)
    before = {key: value.clone() for key, value in checkpoint.model.state_dict().items()}
    arms = [BASELINE, zero(name_expert(checkpoint))]
    seen = collect(checkpoint, arms)
    assert equals(seen, 0, run_alone(checkpoint))
    assert equals(seen, 1, run_alone(checkpoint, remove_))
    assert not torch.equal(seen[0, 0], seen[0, 1])
    assert all(torch.equal(value, before[key]) for key, value in checkpoint.model.state_dict().items())


def test_several_experts_of_several_layers_are_zeroed_together() -> None:
    checkpoint = open_experts("mixtral")
    arm = zero(name_expert(checkpoint, 0, 1), name_expert(checkpoint, 2, 3))
    assert [touches(arm, layer) for layer in checkpoint.layers] == [True, False, True]

    def remove_both_(alone: Checkpoint) -> None:
        for layer, number in ((0, 1), (2, 3)):
            alone.layers[layer].experts[number].weight.zero_()

    assert equals(collect(checkpoint, [BASELINE, arm]), 1, run_alone(checkpoint, remove_both_))


def test_an_expert_that_is_packed_answers_with_zeros_and_then_as_before() -> None:
    checkpoint = copy_of(open_experts("apart"))
    expert = checkpoint.model.model.layers[LAYER].mlp.experts[EXPERT]
    kept = expert.w2

    class Packed(torch.nn.Module):
        in_features, out_features = kept.in_features, kept.out_features

        def __init__(self) -> None:
            super().__init__()
            self.codes = torch.nn.Parameter(kept.weight.detach().clone(), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.codes.T

    expert.w2 = Packed()
    packed = copy_of(checkpoint)
    down = packed.layers[LAYER].experts[EXPERT]
    assert down.probed is not None
    assert any(module is down.module for _, module in list_projections(packed.layers[LAYER].module, ""))
    x = torch.ones(1, 2, down.shape[1])
    with torch.no_grad():
        plain = down.module(x)
        with applied_arm(zero(name_expert(packed)), packed.layers[LAYER]):
            assert torch.equal(down.module(x), torch.zeros_like(plain))
        assert torch.equal(down.module(x), plain)


def test_what_is_no_expert_is_refused_in_one_line() -> None:
    checkpoint = open_experts("mixtral")
    there = name_expert(checkpoint)
    with pytest.raises(CheckpointError, match=r"expert 4 of .* it fuses 4 experts; count experts from 0"):
        touches(zero(there.model_copy(update={"expert": 4})), checkpoint.layers[LAYER])
    query = there.model_copy(update={"parameter": f"model.layers.{LAYER}.self_attn.q_proj.weight", "expert": None})
    refused = pytest.raises(CheckpointError, match="it is no expert's down-projection; name the down-projection")
    with refused, torch.no_grad(), applied_arm(zero(query), checkpoint.layers[LAYER]):
        raise AssertionError("the arm was put in force")
