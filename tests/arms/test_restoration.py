"""A restored super activation is what the original weights give, at one token, in dense layers and in experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.engine import (
    COLUMN,
    EXPERT,
    LAYER,
    MIXED,
    ROW,
    collect,
    copy_of,
    find_expert,
    make_arm,
    make_batches,
    name_scalar,
    open_experts,
)
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from torch import Tensor

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.record.arm import BASELINE, Arm, RestoreActivation, Scale

SUPER = Planted(layer=2, row=17, column=90)
WEIGHT = 3.0


def prune_and_restore(down: DownProjection, row: int = ROW, column: int = COLUMN) -> list[Arm]:
    group = (name_scalar(down, row, column),)
    zero = Scale(addresses=group, factor=0.0)
    restored = make_arm(zero, RestoreActivation(addresses=group), label="restored")
    return [BASELINE, make_arm(zero, label="pruned"), restored]


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_a_restored_activation_is_the_original_output_at_one_token(build: Any) -> None:
    checkpoint = wrap_model(build())
    plant_(checkpoint, SUPER)
    down = checkpoint.layers[SUPER.layer].down_projections[0]
    seen = collect(checkpoint, prune_and_restore(down, SUPER.row, SUPER.column))
    original = copy_of(checkpoint)
    down = original.layers[SUPER.layer].down_projections[0]
    outputs: list[Tensor] = []
    handle = down.module.register_forward_hook(lambda _, __, output: outputs.append(output.clone()))
    with torch.no_grad():
        for token_ids in make_batches():
            original.model(input_ids=token_ids, use_cache=False)
        handle.remove()
        down.weight[SUPER.row, SUPER.column] = 0.0

        def put_back(_: object, __: object, output: Tensor) -> Tensor:
            stored = outputs.pop(0)
            assert stored[:, :, SUPER.row].abs().argmax(1).eq(0).all()
            output = output.clone()
            output[:, 0, SUPER.row] = stored[:, 0, SUPER.row]
            return output

        down.module.register_forward_hook(put_back)
        for batch, token_ids in enumerate(make_batches()):
            expected = original.model(input_ids=token_ids, use_cache=False).logits
            # The engine adds what is missing to the changed output: one rounding more than remembering it.
            torch.testing.assert_close(seen[batch, 2], expected, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(seen[batch, 2], seen[batch, 0], rtol=1e-4, atol=1e-4)


def open_changed(name: str) -> Checkpoint:
    checkpoint = open_experts(name)
    find_expert(checkpoint).weight[ROW, COLUMN] = WEIGHT
    return checkpoint


@contextmanager
def by_hand(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """Put a forward of our own in the place of the experts': one token, one expert at a time.

    The scalar is already 0; what it would have added at the token where it adds up to the most is put back.
    """
    experts: Any = find_expert(checkpoint).module
    assert "forward" not in experts.__dict__
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


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_restored_activation_of_an_expert_is_its_original_product_at_one_token(name: str) -> None:
    checkpoint = open_changed(name)
    seen = collect(checkpoint, prune_and_restore(find_expert(checkpoint)))
    patched = copy_of(checkpoint)
    find_expert(patched).weight[ROW, COLUMN] = 0.0
    with torch.no_grad(), by_hand(patched, name):
        for batch, token_ids in enumerate(make_batches()):
            expected = patched.model(input_ids=token_ids, use_cache=False).logits
            torch.testing.assert_close(seen[batch, 2], expected, rtol=1e-4, atol=1e-4)
    for other in (0, 1):
        assert not torch.allclose(seen[0, 2], seen[0, other], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*MIXED, "apart"])
def test_restoring_in_a_sequence_of_one_token_gives_the_original(name: str) -> None:
    checkpoint = open_changed(name)
    tokens = [torch.tensor([[token], [token + 1]]) for token in range(3, 15, 2)]
    seen = collect(checkpoint, prune_and_restore(find_expert(checkpoint)), tokens)
    # Some of the tokens are routed to the expert.
    assert not all(torch.allclose(seen[batch, 1], seen[batch, 0]) for batch in range(len(tokens)))
    for batch in range(len(tokens)):
        torch.testing.assert_close(seen[batch, 2], seen[batch, 0], rtol=1e-4, atol=1e-4)
