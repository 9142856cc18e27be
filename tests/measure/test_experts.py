"""Arms on one expert: its scalar and no other, its restored activation, and no trace afterwards."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.checkpoints import DEEPSEEK, EXPERTS
from support.experts import make_experts, take_experts_apart_
from support.planted import wrap_model
from torch import Tensor

from sw_audit.arms.apply import applied_arm
from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.measure.engine import run_arms
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Quantize, RestoreActivation, Scale, SetTo

BY_NAME = {str(family): family for family in (*EXPERTS, *DEEPSEEK)}
LAYER, EXPERT, ROW, COLUMN = 1, 2, 17, 11
WEIGHT = 3.0


def open_experts(name: str) -> Checkpoint:
    if name == "apart":
        model = make_experts(BY_NAME["mixtral"])
        take_experts_apart_(model)
    else:
        model = make_experts(BY_NAME[name])
    checkpoint = wrap_model(model)
    own_down(checkpoint).weight[ROW, COLUMN] = WEIGHT
    return checkpoint


def own_down(checkpoint: Checkpoint) -> DownProjection:
    downs = checkpoint.layers[LAYER].down_projections
    found = next((down for down in downs if down.expert == EXPERT), None)
    return downs[EXPERT] if found is None else found


def address(checkpoint: Checkpoint) -> AddressGroup:
    down = own_down(checkpoint)
    return AddressGroup(parameter=down.parameter, rows=(ROW,), columns=(COLUMN,), expert=down.expert)


def batches() -> list[Tensor]:
    texts = torch.randint(3, 60, (5, 9), generator=torch.Generator().manual_seed(3))
    texts[:, 0] = 1
    return [texts[:3], texts[3:], texts[:2, :4]]


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_an_arm_on_one_expert_changes_its_scalar_and_no_other(name: str) -> None:
    checkpoint = open_experts(name)
    tensor = own_down(checkpoint).tensor
    before = tensor.clone()
    expected = before.clone()
    place = (EXPERT, COLUMN, ROW) if name == "gpt_oss" else (EXPERT, ROW, COLUMN)
    expected[place] = -2.5 * WEIGHT
    group = (address(checkpoint),)
    acts = (SetTo(addresses=group, value=-WEIGHT), Scale(addresses=group, factor=2.5))
    with torch.no_grad(), applied_arm(Arm(name="x", acts=acts), checkpoint.layers[LAYER]):
        assert torch.equal(tensor, expected)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_are_rounded_one_by_one_and_the_held_out_scalar_is_exact(name: str) -> None:
    checkpoint = open_experts(name)
    layer, down, recipe = checkpoint.layers[LAYER], own_down(checkpoint), parse_recipe("int3/8x8")
    stored = [matrix.tensor.data_ptr() for matrix in layer.matrices]
    held = (torch.tensor([ROW]), torch.tensor([COLUMN]))
    expected = []
    for matrix in layer.matrices:
        own = (matrix.parameter, matrix.expert) == (down.parameter, down.expert)
        expected.append(round_to_nearest(matrix.weight, recipe, held if own else None))
    arm = Arm(name="x", acts=(Quantize(recipe=recipe, holdout=(address(checkpoint),)),))
    with torch.no_grad(), applied_arm(arm, layer):
        for matrix, wanted in zip(layer.matrices, expected, strict=True):
            assert torch.equal(matrix.weight, wanted)
        assert down.weight[ROW, COLUMN] == WEIGHT
    assert [matrix.tensor.data_ptr() for matrix in layer.matrices] == stored


@contextmanager
def by_hand(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """Put a forward of our own in the place of the experts': one token, one expert at a time.

    The scalar is already 0; what it would have added at the token where it adds up to the most is put back.
    """
    experts: Any = own_down(checkpoint).module
    own = experts.__dict__.get("forward")
    length = [0]
    handle = checkpoint.layers[LAYER].module.register_forward_pre_hook(
        lambda _, inputs: length.__setitem__(0, inputs[0].shape[1])
    )

    def work(h: Tensor, expert: int) -> tuple[Tensor, Tensor]:
        if name == "gpt_oss":
            both = h @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
            gate, up = both[0::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
            inner = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            return inner, inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]
        both = experts.gate_up_proj[expert] @ h
        inner = torch.nn.functional.silu(both[: len(both) // 2]) * both[len(both) // 2 :]
        return inner, experts.down_proj[expert] @ inner

    def forward(hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden)
        best: dict[int, tuple[float, int, float]] = {}
        for token, h in enumerate(hidden):
            for expert, route in zip(index[token].tolist(), weights[token].tolist(), strict=True):
                inner, y = work(h, expert)
                total[token] += route * y
                if expert == EXPERT:
                    gain = WEIGHT * float(inner[COLUMN])
                    size = abs(route * (float(y[ROW]) + gain))
                    sequence = token // length[0]
                    if sequence not in best or size > best[sequence][0]:
                        best[sequence] = (size, token, route * gain)
        for _, token, gain in best.values():
            total[token, ROW] += gain
        return total

    experts.forward = forward
    try:
        yield
    finally:
        handle.remove()
        del experts.__dict__["forward"]
        assert own is None


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_restored_activation_of_an_expert_is_its_original_product_at_one_token(name: str) -> None:
    checkpoint = open_experts(name)
    seen = run(checkpoint, [BASELINE, *restored(checkpoint)])
    patched = wrap_model(copy.deepcopy(checkpoint.model))
    own_down(patched).weight[ROW, COLUMN] = 0.0
    with torch.no_grad(), by_hand(patched, name):
        for batch, token_ids in enumerate(batches()):
            expected = patched.model(input_ids=token_ids, use_cache=False).logits
            torch.testing.assert_close(seen[batch, 2], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen[0, 2], seen[0, 1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(seen[0, 2], seen[0, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*BY_NAME, "apart"])
def test_restoring_in_a_sequence_of_one_token_gives_the_original(name: str) -> None:
    checkpoint = open_experts(name)
    tokens = [torch.tensor([[token], [token + 1]]) for token in range(3, 15, 2)]
    seen: dict[tuple[int, int], Tensor] = {}
    arms = [BASELINE, *restored(checkpoint)]
    run_arms(checkpoint, arms, tokens, lambda batch, arm, logits, _: seen.update({(batch, arm): logits.clone()}))
    changed = [batch for batch in range(len(tokens)) if not torch.allclose(seen[batch, 1], seen[batch, 0])]
    # Some of the tokens are routed to the expert.
    assert changed
    for batch in range(len(tokens)):
        torch.testing.assert_close(seen[batch, 2], seen[batch, 0], rtol=1e-4, atol=1e-4)


def restored(checkpoint: Checkpoint) -> list[Arm]:
    group = (address(checkpoint),)
    zero = Scale(addresses=group, factor=0.0)
    return [
        Arm(name="pruned", acts=(zero,)),
        Arm(name="restored", acts=(zero, RestoreActivation(addresses=group))),
    ]


def run(checkpoint: Checkpoint, arms: list[Arm]) -> dict[tuple[int, int], Tensor]:
    seen: dict[tuple[int, int], Tensor] = {}
    run_arms(
        checkpoint, arms, batches(), lambda batch, arm, logits, _: seen.update({(batch, arm): logits.clone()})
    )
    return seen


def fingerprint(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        digest.update(name.encode())
        digest.update(str(tensor.data_ptr()).encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for module in checkpoint.model.modules():
        digest.update(str((len(module._forward_hooks), len(module._forward_pre_hooks))).encode())
        assert "forward" not in module.__dict__
    return digest.hexdigest()


@pytest.mark.parametrize("name", [*BY_NAME, "apart"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_bit_identical_afterwards_also_after_an_exception(name: str, fails: bool) -> None:
    checkpoint = open_experts(name)
    group = (address(checkpoint),)
    acts = (
        Scale(addresses=group, factor=3.0),
        SetTo(addresses=group, value=0.1),
        RestoreActivation(addresses=group),
        Quantize(recipe=parse_recipe("int3/row"), holdout=group),
    )
    arms = [BASELINE, Arm(name="everything", acts=acts)]
    before = fingerprint(checkpoint)
    if fails:
        calls = []

        def fail(*_: object) -> None:
            calls.append(1)
            if len(calls) == 5:  # once to learn shapes, three batches of the baseline, then inside the acts
                raise RuntimeError("power cut")

        handle = own_down(checkpoint).module.register_forward_pre_hook(fail)
        if name == "apart":  # it is called only when a token comes its way
            calls += [1] * 3
        with pytest.raises(RuntimeError, match="power cut"):
            run(checkpoint, arms)
        handle.remove()
    else:
        run(checkpoint, arms)
    assert fingerprint(checkpoint) == before


def test_an_expert_that_is_not_there_is_refused_in_one_line() -> None:
    checkpoint = open_experts("mixtral")
    group = address(checkpoint).model_copy(update={"expert": 4})
    arm = Arm(name="x", acts=(Scale(addresses=(group,), factor=0.0),))
    with pytest.raises(CheckpointError, match=r"expert 4 of .*down_proj: it fuses 4 experts"):
        run(checkpoint, [BASELINE, arm])
