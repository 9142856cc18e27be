from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import DEEPSEEK, save_checkpoint
from support.checkpoints import LLAMA as STORED
from support.qwen2 import CHANNEL, CHANNELS, HEAD, HEADS, LAYER, build_qwen2

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.measure.keys import read_keys
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.keys import KeyReport
from sw_audit.testing.families import DENSE, build_random_model, wrap_model

PROMPT = [1, 5, 7, 9, 11, 13, 17, 19]
FUSED = {
    "phi3": "qkv_proj",
    "gpt_neox": "query_key_value",
    "falcon": "query_key_value",
    "bloom": "query_key_value",
    "gpt2": "c_attn",
    "gpt_bigcode": "c_attn",
    "mpt": "Wqkv",
}
NORMED = {"qwen3": "k_norm", "gemma3_text": "k_norm", "olmo2": "k_norm", "olmo3": "k_norm"}
TURNED = {"stablelm": 4, "phi": 8, "gpt_neox": 4} | dict.fromkeys(
    ("gpt2", "gpt_bigcode", "gpt_neo", "opt", "bloom", "mpt")
)


def read(model: Any) -> KeyReport:
    return read_keys(wrap_model(model), PROMPT)


def find_error(report: KeyReport, layer: int, kind: Any) -> Any:
    error = report.layers[layer].find_error(kind)
    assert error is not None
    return error


def test_a_planted_bias_is_named_with_layer_head_channel_and_what_is_turned_with_it() -> None:
    report = read(build_qwen2(bias=40.0))
    found = report.layers[LAYER]
    assert found.projection == "model.layers.1.self_attn.k_proj"
    assert (found.heads, found.channels, found.rotated) == (HEADS, CHANNELS, CHANNELS)
    largest = found.constant
    assert (largest.head, largest.channel, largest.partner) == (HEAD, CHANNEL, CHANNEL + CHANNELS // 2)
    assert largest.value == pytest.approx(40.0)
    assert largest.ratio == pytest.approx(40 / 0.8, rel=0.1)
    assert all(not layer.constant.value for layer in report.layers if layer.layer != LAYER)
    assert not report.unread


def test_the_error_of_rounding_is_what_arithmetic_says() -> None:
    """A step of 40 / 8 rounds everything else of both turned blocks to 0; 40 / 127 leaves a uniform error."""
    planted, sound = read(build_qwen2(bias=40.0)), read(build_qwen2())
    four = find_error(planted, LAYER, "q4_0")
    assert four.head == HEAD
    # Both blocks are hit, but for positions at which the pair points along one of them.
    assert 0.7 < four.predicted <= 1.0
    assert four.measured == pytest.approx(four.predicted, rel=0.2)
    # Turned first, 40 / 8 in each channel: a step of (5 + 2 or so) / 8.
    assert four.rotated == pytest.approx(7 / 8 / math.sqrt(12) / 0.8, rel=0.2)
    # The step is largest / 127, of a pair that points anywhere: 40 |cos|, and in the other block 40 |sin|.
    eight = find_error(planted, LAYER, "q8_0")
    uniform = 40 / 127 * math.sqrt(0.5 / 12) / 0.8
    assert eight.predicted == pytest.approx(uniform, rel=0.1)
    # Without it a block of 32 normal numbers reaches 2.1 deviations or so: a step of a quarter of one.
    assert find_error(sound, LAYER, "q4_0").predicted == pytest.approx(2.2 / 8 / math.sqrt(12), rel=0.15)
    # Floats of three bits of mantissa: 2^-4 at the very most, uniform within a binade.
    assert 0.02 < find_error(sound, LAYER, "fp8").predicted < 0.0361
    for layer in (0, 2):
        error = find_error(sound, layer, "q4_0").predicted
        assert find_error(planted, layer, "q4_0").predicted == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("family", DENSE)
def test_keys_are_found_in_every_dense_family_whatever_they_are_called(family: str) -> None:
    model = build_random_model(family, layers=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = read(model)
    assert not report.unread
    assert [layer.layer for layer in report.layers] == [0, 1]
    for found in report.layers:
        assert found.projection.rpartition(".")[2] == FUSED.get(family, "k_proj")
        assert (found.norm or "").rpartition(".")[2] == NORMED.get(family, "")
        assert found.channels == 16
        assert found.rotated == TURNED.get(family, 16)
        assert found.find_error("fp8") is not None
        assert found.find_error("q4_0") is None  # no block of 32
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["gpt_neox", "bloom", "falcon"])
def test_a_bias_of_a_fused_projection_belongs_to_the_key_alone(family: str) -> None:
    model = build_random_model(family, layers=2)
    block = (model.gpt_neox.layers if family == "gpt_neox" else model.transformer.h)[1]
    attention = block.attention if family == "gpt_neox" else block.self_attention
    fused = attention.query_key_value
    if fused.bias is None:
        fused.bias = torch.nn.Parameter(torch.zeros(fused.out_features))
    heads = 1 if family == "falcon" else 4
    # Each head's query, key and value stand together; in Falcon one key and one value follow all queries.
    key = 4 * 16 + 3 if family == "falcon" else 2 * 48 + 16 + 3
    fused.bias.data[key] = 50.0
    fused.bias.data[key - 16] = 999.0  # a query's
    fused.bias.data[key + 16] = 999.0  # a value's
    found = read(model).layers[1]
    assert found.heads == heads
    assert (found.constant.head, found.constant.channel) == (0 if family == "falcon" else 2, 3)
    assert found.constant.value == pytest.approx(50.0, abs=1.0)


def test_a_gain_of_the_norm_after_the_projection_is_named() -> None:
    model = build_random_model("qwen3", layers=2)
    model.model.layers[0].self_attn.k_norm.weight.data[7] = 30.0
    found = read(model).layers[0]
    assert found.gain is not None
    assert (found.gain.channel, found.gain.value) == (7, 30.0)
    assert found.gain.ratio == pytest.approx(30, rel=0.1)
    assert found.spread.channel == 7
    assert found.spread.ratio is not None
    assert found.spread.ratio > 20


def test_the_bias_of_the_norm_before_counts() -> None:
    model = build_random_model("opt", layers=2)
    layer = model.model.decoder.layers[0]
    layer.self_attn_layer_norm.bias.data[9] = 100.0
    keys = layer.self_attn.k_proj
    constant = keys.weight.detach() @ layer.self_attn_layer_norm.bias + keys.bias
    expected = int(constant.abs().argmax())
    found = read(model).layers[0].constant
    assert (found.head, found.channel) == divmod(expected, 16)
    assert found.value == pytest.approx(constant[expected].item(), rel=1e-4)


def test_keys_that_scaled_rotary_embedding_makes_longer_are_found() -> None:
    report = read(build_random_model("gpt_oss", layers=2))
    assert [layer.projection.rpartition(".")[2] for layer in report.layers] == ["k_proj", "k_proj"]


@pytest.mark.parametrize("family", DEEPSEEK, ids=str)
def test_latent_attention_is_looked_at_as_it_is_cached_or_not_at_all(family: Any) -> None:
    report = read(build_random_model(family.model_type, layers=2))
    assert len(report.layers) + sum(len(one.layers) for one in report.unread) == 2
    for found in report.layers:
        assert found.heads == 1
        assert found.projection.endswith("kv_a_proj_with_mqa")


def test_what_was_not_found_is_told_with_the_reason() -> None:
    """PaliGemma counts positions from 1: its first key is turned."""
    report = read(build_random_model("paligemma", layers=2))
    assert not report.layers
    [unread] = report.unread
    assert unread.layers == (0, 1)
    assert "projection" in unread.because


def test_keys_that_are_not_finite_are_no_figures() -> None:
    model = build_qwen2()
    model.model.layers[LAYER].self_attn.k_proj.bias.data[3] = math.inf
    report = read(model)
    assert LAYER in {layer for one in report.unread for layer in one.layers}
    assert 0 in {layer.layer for layer in report.layers}


def test_layers_that_are_read_as_they_run_say_the_same(tmp_path: Path) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path / "model", STORED)))
    whole, streamed = (read_keys(open_(policy), [1, 4, 5, 6, 7]) for open_ in (open_checkpoint, open_streaming))
    assert whole == streamed
    assert whole.layers
