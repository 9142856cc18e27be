"""A layer whose activations are rounded: what is rounded, what is held out, and that nothing stays.

Both products of attention are seen in every family, whichever way it makes them.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from support.engine import make_arm
from support.planted import Planted, build_gpt2, build_llama, name_planted, plant_, wrap_model

from sw_audit.arms.activations import (
    attend,
    attention_products,
    explain_unroundable,
    explain_unseen,
    list_hot_channels,
    quantized_activations,
)
from sw_audit.arms.apply import LayerContext, applied_arm
from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError, CorpusError
from sw_audit.measure.mechanism import eager_attention
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.activations import round_activations
from sw_audit.quantize.calibration import Calibration, Operand
from sw_audit.record.arm import Quantize, QuantizeActivations
from sw_audit.testing.families import DENSE, EXPERTS, build_random_model
from sw_audit.testing.planting import observe

PROMPT = [1, 5, 7, 11, 30, 42]
SUPER = Planted(layer=1, row=17, column=90)
BUILDERS = {"llama": build_llama, "gpt2": build_gpt2}


def open_planted(family: str) -> Checkpoint:
    checkpoint = wrap_model(BUILDERS[family](layers=3))
    plant_(checkpoint, SUPER)
    return checkpoint


@torch.no_grad()
def see_products(checkpoint: Checkpoint, depth: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return what enters each projection of a layer and what it gives, on two prompts at once."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    layer = checkpoint.layers[depth]
    with ExitStack() as stack:
        for matrix, module in list_projections(layer.module, layer.name):

            def keep(
                _: object, given: tuple[torch.Tensor], output: torch.Tensor, name: str = matrix.parameter
            ) -> None:
                seen[name] = (given[0].clone(), output.clone())

            stack.callback(module.register_forward_hook(keep).remove)
        checkpoint.model(input_ids=torch.tensor([PROMPT, [1, 9, 8, 50, 3, 4]]), use_cache=False)
    return seen


@pytest.mark.parametrize("family", DENSE)
def test_what_reads_the_residual_stream_has_a_scalar_held_out_and_nothing_else_has(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=1))
    layer = checkpoint.layers[0]
    with torch.no_grad(), quantized_activations(QuantizeActivations(bits=2, channels=(3,)), LayerContext(layer)):
        seen = see_products(checkpoint, 0)
    # 2 bits: a token has one magnitude besides 0, and a second one only where a scalar is held out.
    held = {
        name
        for name, (entered, _) in seen.items()
        if any(len(row.abs().unique()) > 2 for row in entered.view(-1, entered.shape[-1]))
    }
    down = layer.down_projection
    pairs = list(list_projections(layer.module, layer.name))
    names = {module: matrix.parameter for matrix, module in pairs}
    ran = [names[module] for module in observe(checkpoint, PROMPT, list(names)).order]
    # Of the projections in attention, all but the one that runs last; of those in the MLP, all but the last.
    attending = [name for name in ran if "attn" in name or "attention" in name]
    assert len(attending) > 1
    assert held == set(ran) - {down.parameter, attending[-1]}


def test_held_channels_are_those_of_the_stream_and_the_column_of_the_super_weight() -> None:
    checkpoint = open_planted("llama")
    act = QuantizeActivations(bits=8, channels=(17, 3), columns=(name_planted(checkpoint, SUPER),))
    own, other = checkpoint.layers[SUPER.layer], checkpoint.layers[0]
    hot = {
        matrix.parameter.split(".")[-2]: list_hot_channels(act, own, matrix)
        for matrix, _ in list_projections(own.module, own.name)
    }
    streams = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), (3, 17))
    assert {name: tuple(channels) for name, channels in hot.items()} == {**streams, "down_proj": (90,)}
    assert list_hot_channels(act, other, other.down_projections[0]) == []


@pytest.mark.parametrize("family", sorted(BUILDERS))
@pytest.mark.parametrize("held", [False, True])
def test_every_projection_is_given_its_rounded_input(family: str, held: bool) -> None:
    checkpoint = open_planted(family)
    depth = SUPER.layer
    layer = checkpoint.layers[depth]
    group = name_planted(checkpoint, SUPER)
    act = QuantizeActivations(bits=4, channels=(17,) if held else (), columns=(group,) if held else ())
    plain = see_products(checkpoint, depth)
    with torch.no_grad(), quantized_activations(act, LayerContext(layer)):
        seen = see_products(checkpoint, depth)
    for name, (entered, _) in seen.items():
        rows = entered.view(-1, entered.shape[-1])
        # 4 bits: 15 levels, so 8 magnitudes at most, and one more where a scalar is held out.
        counts = [len(row.abs().unique()) for row in rows]
        assert max(counts) <= 8 + held, name
        if name == group.parameter:
            # The planted neuron answers to the first token of each sequence: beside it hardly a level is left.
            others = torch.arange(rows.shape[1]) != SUPER.column
            levels = [len(rows[first, others].abs().unique()) for first in (0, len(PROMPT))]
            assert all(count > 4 if held else count <= 2 for count in levels), levels
    # What enters first is not yet touched by rounding: it can be compared with the plain run.
    first = next(iter(seen))
    token = seen[first][0].view(-1, seen[first][0].shape[-1])[2]
    torch.testing.assert_close(token, round_activations(plain[first][0].view(-1, len(token))[2:3], 4)[0])


def test_a_static_range_comes_from_the_calibration_and_a_held_channel_from_its_runner_up() -> None:
    largest, second = torch.tensor([5.0, 90.0, 2.0]), torch.tensor([4.0, 6.0, 1.0])
    calibration = Calibration(largest={"a": largest}, runner_up={"a": second}, mean_share={"a": largest}, tokens=9)
    assert calibration.find_range("a") == 90.0
    assert calibration.find_range("a", [1]) == 6.0
    assert calibration.find_range("a", [0, 1]) == 6.0
    divided = calibration.divide(["a"], torch.tensor([1.0, 10.0, 0.5]))
    assert divided.find_range("a") == 9.0
    assert divided.find_range("a", [1]) == 5.0
    with pytest.raises(CorpusError, match="never reached"):
        calibration.find_range("b")


def test_static_scales_without_calibration_are_refused_in_one_line() -> None:
    checkpoint = open_planted("llama")
    arm = make_arm(QuantizeActivations(bits=8, scale="tensor"), label="static")
    with (
        pytest.raises(CorpusError, match="no calibration text") as caught,
        applied_arm(arm, checkpoint.layers[0]),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_layer_with_experts_is_refused() -> None:
    layers = wrap_model(build_random_model("mixtral", layers=1)).layers
    assert "experts" in explain_unroundable(layers)
    refused = pytest.raises(CheckpointError, match="experts")
    with refused, quantized_activations(QuantizeActivations(bits=8), LayerContext(layers[0])):
        pass


@pytest.mark.parametrize("family", DENSE)
def test_no_dense_family_is_refused_and_eight_bits_change_little(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=1))
    assert explain_unroundable(checkpoint.layers) is None
    token_ids = torch.tensor([PROMPT])
    with torch.no_grad():
        plain = checkpoint.model(input_ids=token_ids, use_cache=False).logits
        with quantized_activations(QuantizeActivations(bits=8), LayerContext(checkpoint.layers[0])):
            rounded = checkpoint.model(input_ids=token_ids, use_cache=False).logits
        again = checkpoint.model(input_ids=token_ids, use_cache=False).logits
    error = float((rounded - plain).norm() / plain.norm())
    assert 0 < error < 0.05, error
    assert torch.equal(again, plain)


def test_no_hook_is_left_after_an_exception() -> None:
    checkpoint = open_planted("gpt2")
    arm = make_arm(Quantize(recipe=parse_recipe("int8/row/symmetric")), QuantizeActivations(bits=8), label="all")

    before = [matrix.tensor.data_ptr() for matrix in checkpoint.layers[1].matrices]
    with pytest.raises(RuntimeError, match="power cut"), applied_arm(arm, checkpoint.layers[1]):
        raise RuntimeError("power cut")
    for module in checkpoint.model.modules():
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    assert [matrix.tensor.data_ptr() for matrix in checkpoint.layers[1].matrices] == before


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
        operands = dict(seen)
        # Queries and keys have the same channels; so have keys and values the same tokens.
        assert operands[Operand(0, 0)].shape[-1] == operands[Operand(0, 1)].shape[-1]
        assert operands[Operand(0, 1)].shape[-2] == operands[Operand(1, 1)].shape[-2] == TOKENS
        probabilities = operands[Operand(1, 0)]
        if family != "gpt_oss":  # whose heads also attend to a sink that is no token
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        # Causal: the first token attends to itself alone.
        assert float(probabilities[..., 0, 1:].abs().max()) == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "gpt_neox", "bloom", "falcon", "mpt"])
@pytest.mark.parametrize("operand", [Operand(0, 0), Operand(0, 1), Operand(1, 0), Operand(1, 1)])
def test_each_operand_reaches_the_logits(family: str, operand: Operand) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=1))

    # Not by a factor: a norm after attention would take it out again.
    def roll(entering: Operand, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1) if entering == operand else x

    assert not torch.allclose(run(checkpoint, roll), run(checkpoint), rtol=1e-3, atol=1e-3)


def test_twice_the_probabilities_are_twice_the_values() -> None:
    checkpoint = wrap_model(build_random_model("llama", layers=1))
    values, probabilities = (
        run(checkpoint, lambda operand, x, side=side: x * 2 if operand == Operand(1, side) else x)
        for side in (1, 0)
    )
    torch.testing.assert_close(probabilities, values)


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
    attended = attend(query, key, value, enable_gqa=True, change=lambda _, x: x, **settings)
    assert attended.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(attended, expected, rtol=tolerance, atol=tolerance)


def test_pieces_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = torch.randn(3, 5, 2, 6, 4, generator=torch.Generator().manual_seed(2))
    whole = attend(query, key, value, is_causal=True, change=lambda _, x: x)
    monkeypatch.setattr("sw_audit.arms.activations._SCORES_AT_ONCE", 1)
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
    block.forward = forward = Mock(wraps=block.forward)
    run(checkpoint, lambda _, x: x)
    forward.assert_called_once()
    assert block.forward is forward
