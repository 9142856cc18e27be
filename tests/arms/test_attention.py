"""Both products of attention are seen in every family, whichever way it makes them, and stay what they are."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import torch

from sw_audit.arms.attention import attend, attention_products, explain_unseen
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.measure.attention import eager_attention
from sw_audit.quantize.calibration import Operand
from sw_audit.testing.families import DENSE, EXPERTS, build_random_model, wrap_model

SEQUENCES, TOKENS = 2, 9
Seen = list[tuple[Operand, torch.Tensor]]


def draw_ids() -> torch.Tensor:
    token_ids = torch.randint(3, 101, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(0))
    token_ids[:, 0] = 1
    return token_ids


@torch.no_grad()
def run(checkpoint: Checkpoint, change: Any = None) -> torch.Tensor:
    with ExitStack() as stack:
        for layer in checkpoint.layers if change else ():
            stack.enter_context(attention_products(layer, change))
        logits: torch.Tensor = checkpoint.model(input_ids=draw_ids(), use_cache=False).logits
        return logits


def collect_into(seen: Seen) -> Any:
    def keep(operand: Operand, x: torch.Tensor) -> torch.Tensor:
        seen.append((operand, x))
        return x

    return keep


# Asked for eager attention, this one cannot run with a configuration this small.
@pytest.mark.parametrize("way", ["own", "eager"])
@pytest.mark.parametrize("family", [name for name in (*DENSE, *EXPERTS) if name != "deepseek_v3"])
def test_a_family_shows_two_products_per_layer_and_gives_the_same_logits(family: str, way: str) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=1))
    with eager_attention(checkpoint.model) if way == "eager" else nullcontext():
        plain = run(checkpoint)
        seen: Seen = []
        watched = run(checkpoint, collect_into(seen))
        torch.testing.assert_close(watched, plain, rtol=1e-4, atol=1e-4)
        assert sorted(operand for operand, _ in seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        found = dict(seen)
        # Queries and keys have the same channels; so have keys and values the same tokens.
        assert found[Operand(0, 0)].shape[-1] == found[Operand(0, 1)].shape[-1]
        assert found[Operand(0, 1)].shape[-2] == found[Operand(1, 1)].shape[-2] == TOKENS
        probabilities = found[Operand(1, 0)]
        if family != "gpt_oss":  # whose heads also attend to a sink that is no token
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        # Causal: the first token attends to itself alone.
        assert float(probabilities[..., 0, 1:].abs().max()) == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "gpt_neox", "bloom", "falcon", "mpt"])
@pytest.mark.parametrize("operand", [Operand(0, 0), Operand(0, 1), Operand(1, 0), Operand(1, 1)])
def test_each_operand_reaches_the_logits(family: str, operand: Operand) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=1))

    # Not by a factor: a norm after attention would take it out again.
    def roll(found: Operand, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1) if found == operand else x

    assert not torch.allclose(run(checkpoint, roll), run(checkpoint), rtol=1e-3, atol=1e-3)


def test_twice_the_probabilities_are_twice_the_values() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=1))

    def double(side: int) -> Any:
        return lambda operand, x: x * 2 if operand == Operand(1, side) else x

    torch.testing.assert_close(run(checkpoint, double(0)), run(checkpoint, double(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "added"])
def test_attention_step_by_step_is_the_fused_one(dtype: torch.dtype, mask: str) -> None:
    chance = torch.Generator().manual_seed(1)
    query = torch.randn(3, 4, 7, 8, generator=chance).to(dtype)
    key, value = (torch.randn(3, 2, 7, size, generator=chance).to(dtype) for size in (8, 5))
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    added = torch.randn(3, 1, 7, 7, generator=chance).to(dtype).masked_fill(~seen, -torch.inf)
    settings: dict[str, Any] = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "added": {"attn_mask": added, "scale": 0.3},
    }[mask]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True, **settings)
    found = attend(query, key, value, enable_gqa=True, change=lambda _, x: x, **settings)
    assert found.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_pieces_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 5, 2, 6, 4, generator=torch.Generator().manual_seed(2))
    whole = attend(query, key, value, is_causal=True, change=lambda _, x: x)
    monkeypatch.setattr("sw_audit.arms.attention._SCORES_AT_ONCE", 1)
    assert torch.equal(attend(query, key, value, is_causal=True, change=lambda _, x: x), whole)


def test_dropout_is_refused() -> None:
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="evaluation mode"):
        attend(x, x, x, dropout_p=0.1, change=lambda _, x: x)


def test_attention_made_by_a_kernel_that_cannot_be_looked_into_is_refused() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=1))
    [layer] = checkpoint.layers
    assert explain_unseen(layer) is None
    checkpoint.model.config._attn_implementation_internal = "flash_attention_2"
    assert "flash_attention_2" in (explain_unseen(layer) or "")
    with pytest.raises(CheckpointError, match="eager"), attention_products(layer, lambda _, x: x):
        pass


def test_blocks_run_as_before_afterwards_also_after_an_exception() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=2))
    plain = run(checkpoint)

    def fail(_: Operand, __: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(checkpoint, fail)
    assert all("forward" not in module.__dict__ for module in checkpoint.model.modules())
    assert torch.equal(run(checkpoint), plain)


def test_a_forward_that_another_library_put_there_is_used_and_put_back() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=1))
    block = checkpoint.layers[0].module.self_attn
    calls = []
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    block.forward = forward
    run(checkpoint, lambda _, x: x)
    assert len(calls) == 1
    assert block.forward is forward
