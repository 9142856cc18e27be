"""Where a mixture's tokens are routed: counted by hand from the router, while the model runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import save_checkpoint
from support.engine import MIXED, make_windows, open_experts
from support.planted import build_llama, wrap_model
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.routing import follow_routing
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.arm import BASELINE
from sw_audit.record.experts import RoutedLayer

WINDOWS = make_windows(3, 5, 9, 60)


def count_by_hand(checkpoint: Checkpoint) -> dict[int, tuple[list[int], list[float]]]:
    """Count what the experts' module itself is told, over the whole text at once: tokens and weight per expert."""
    counted: dict[int, tuple[list[int], list[float]]] = {}

    def hook(layer: DecoderLayer) -> Any:
        def note(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
            index = next((one for one in tensors if not one.is_floating_point()), None)
            count = len(layer.experts)
            if index is None:  # Llama 4: all tokens, once per expert, the weight already in them
                states = tensors[0].reshape(count, -1, tensors[0].shape[-1])
                tokens = [int((part.abs().sum(-1) > 0).sum()) for part in states]
                counted[layer.index] = tokens, [float(number) for number in tokens]
                return
            weights = tensors[-1].reshape(index.shape[0], -1)
            if weights.shape != index.shape:
                weights = torch.stack([row[chosen] for row, chosen in zip(weights, index, strict=True)])
            counted[layer.index] = (
                [int((index == expert).sum()) for expert in range(count)],
                [float(weights[index == expert].sum()) for expert in range(count)],
            )

        return note

    handles = [
        layer.fused_experts[0].module.register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer in checkpoint.layers
        if layer.fused_experts
    ]
    with torch.no_grad():
        checkpoint.model(input_ids=WINDOWS.token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return counted


@pytest.mark.parametrize("name", sorted(MIXED))
def test_tokens_and_routing_weights_of_every_family_are_those_its_router_gives(name: str) -> None:
    checkpoint = open_experts(name)
    expected = count_by_hand(checkpoint)
    [measured] = measure_arms(checkpoint, [BASELINE], WINDOWS, protocol="p")
    assert [layer.layer for layer in measured.routing] == sorted(expected)
    for layer in measured.routing:
        tokens, weights = expected[layer.layer]
        assert list(layer.tokens) == tokens
        assert layer.weights == pytest.approx(weights, rel=1e-5)
        shares = [layer.share(expert) for expert in range(4)]
        assert shares == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-5)
    followed = follow_routing(checkpoint, WINDOWS)
    assert [layer.tokens for layer in followed] == [layer.tokens for layer in measured.routing]


def test_experts_that_are_modules_are_counted_and_their_weights_are_not_known() -> None:
    together, apart = open_experts("mixtral"), open_experts("apart")
    [expected], [measured] = (measure_arms(one, [BASELINE], WINDOWS, protocol="p") for one in (together, apart))
    for fused, single in zip(expected.routing, measured.routing, strict=True):
        assert single.tokens == fused.tokens
        assert single.weights == (None,) * 4
        assert single.share(0) is None
        assert single.peaks == pytest.approx(fused.peaks, rel=1e-5)


def test_an_experts_peak_is_the_largest_magnitude_that_leaves_its_down_projection() -> None:
    checkpoint = open_experts("mixtral")
    before = follow_routing(checkpoint, WINDOWS)[1]
    checkpoint.layers[1].experts[2].weight.mul_(8.0)
    after = follow_routing(checkpoint, WINDOWS)[1]
    assert after.tokens == before.tokens
    assert after.peaks[2] == pytest.approx(8 * before.peaks[2], rel=1e-5)  # type: ignore[operator]
    assert after.peaks[:2] == before.peaks[:2]


def test_a_model_that_is_read_layer_by_layer_routes_as_one_that_is_in_memory(tmp_path: Path) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path, MIXED["qwen3_moe"])))
    whole, streamed = open_checkpoint(policy), open_streaming(policy)
    expected = follow_routing(whole, WINDOWS)
    assert follow_routing(streamed, WINDOWS) == expected
    [measured] = measure_arms(streamed, [BASELINE], WINDOWS, protocol="p")
    assert [layer.tokens for layer in measured.routing] == [layer.tokens for layer in expected]


def test_an_expert_that_the_router_never_names_is_reached_by_no_token() -> None:
    checkpoint = open_experts("mixtral")
    gate = checkpoint.model.model.layers[1].mlp.gate
    gate.weight.data[3] = 0.0
    gate.weight.data[:2] = gate.weight.data[:2].abs()
    norm = checkpoint.model.model.layers[1].post_attention_layernorm
    norm.register_forward_hook(lambda _, __, output: output.abs())  # so that two logits are always above 0
    layer = follow_routing(checkpoint, WINDOWS)[1]
    assert 3 in layer.unreached
    assert (layer.tokens[3], layer.weights[3], layer.peaks[3]) == (0, 0.0, None)
    assert sum(layer.tokens) == 2 * WINDOWS.token_ids.numel()


def test_nothing_stays_on_the_model_and_a_dense_one_has_no_routing() -> None:
    checkpoint = open_experts("mixtral")
    follow_routing(checkpoint, WINDOWS)
    assert not any(module._forward_hooks for module in checkpoint.model.modules())
    dense = wrap_model(build_llama(layers=2))
    [measured] = measure_arms(dense, [BASELINE], make_windows(2, 1), protocol="p")
    assert measured.routing == ()
    assert follow_routing(dense, make_windows(2, 1)) == ()


def test_the_routing_of_two_texts_adds_up() -> None:
    first = RoutedLayer(layer=2, tokens=(3, 0, 1), weights=(1.5, 0.0, 0.5), peaks=(4.0, None, None))
    second = RoutedLayer(layer=2, tokens=(1, 0, 0), weights=(0.25, 0.0, 0.0), peaks=(9.0, None, None))
    both = first + second
    assert both == RoutedLayer(layer=2, tokens=(4, 0, 1), weights=(1.75, 0.0, 0.5), peaks=(9.0, None, None))
    assert both.unreached == (1,)
    assert both.share(0) == 1.75 / 2.25
    windows = measure_arms(open_experts("mixtral"), [BASELINE], WINDOWS, protocol="p")[0]
    parts = [
        measure_arms(open_experts("mixtral"), [BASELINE], WINDOWS.part(*ends), protocol="p")[0]
        for ends in ((0, 1), (1, 3))
    ]
    assert [layer.tokens for layer in (parts[0] + parts[1]).routing] == [layer.tokens for layer in windows.routing]
