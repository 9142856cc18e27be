"""What a configuration says of quantization, held against what is found in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.conftest import Opened
from support.checkpoints import (
    EXPERTS,
    Tensors,
    make_model,
    make_tokenizer,
    rewrite_config,
    rewrite_weights,
    save_checkpoint,
)
from support.decoding import E2M1
from support.stored import COLUMN, DOWN, ROW, VALUE, make
from torch import Tensor

from sw_audit.checkpoint.formats.format import list_formats
from sw_audit.checkpoint.formats.patterns import ModulePattern, count_matches, is_left_out
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.checkpoint import QuantizationReport
from sw_audit.record.location import SuperWeight

SUPER_WEIGHT = SuperWeight(parameter=f"{DOWN}.weight", row=ROW, column=COLUMN, layer=1, value=VALUE, share=1.0)
# Method, bits, group and activations of each format, and the number that the group's largest weight is stored as
# where codes are whole numbers; what is not here is stored plainly.
EXPECTED: dict[str, tuple[str, float, int | None, int | None, int | None]] = {
    "bitsandbytes-nf4": ("bitsandbytes", 4, 64, None, None),
    "bitsandbytes-nf4-double": ("bitsandbytes", 4, 64, None, None),
    "bitsandbytes-fp4": ("bitsandbytes", 4, 64, None, None),
    "bitsandbytes-int8": ("bitsandbytes", 8, None, 8, 127),
    "torchao-int8": ("torchao", 8, None, None, 127),
    "torchao-int4": ("torchao", 4, 32, None, 7),
    "torchao-fp8": ("torchao", 8, None, None, None),
    "torchao-int8-dynamic": ("torchao", 8, None, 8, 127),
    "compressed-tensors-w4a16": ("compressed-tensors", 4, 32, None, 7),
    "compressed-tensors-w8a8": ("compressed-tensors", 8, None, 8, 127),
    "compressed-tensors-fp8": ("compressed-tensors", 8, None, 8, None),
    "compressed-tensors-nvfp4a16": ("compressed-tensors", 4, 16, None, None),
    "compressed-tensors-mxfp4a16": ("compressed-tensors", 4, 32, None, None),
    "gptq": ("gptq", 4, 32, None, 8),
    "awq": ("awq", 4, 32, None, None),
    "auto-round": ("auto-round", 4, 32, None, 8),
    "gguf-q8_0": ("gguf", 8.5, 32, None, 127),
    "gguf-q4_0": ("gguf", 4.5, 32, None, 8),
    "fp8": ("fp8", 8, 32, None, None),
}


def list_patterns(method: str, settings: dict[str, Any]) -> tuple[ModulePattern, ...]:
    [known] = [known for known in list_formats() if known.method == method]
    return known.list_patterns(settings)


def describe(folder: Path) -> QuantizationReport:
    policy = ModelPolicy(source=str(folder))
    report = describe_quantization(open_checkpoint(policy), policy)
    assert report is not None
    return report


def test_every_format_says_how_its_modules_and_the_super_weight_are_stored(opened: Opened) -> None:
    gone = SUPER_WEIGHT.model_copy(update={"parameter": "model.layers.9.mlp.down_proj.weight"})
    outside = SUPER_WEIGHT.model_copy(update={"column": 5000})
    policy = ModelPolicy(source=str(opened.folder))
    report = describe_quantization(opened.checkpoint, policy, (SUPER_WEIGHT, gone, outside))
    if opened.stored.name not in EXPECTED:
        assert report is None
        return
    assert report is not None
    method, bits, group, activations, largest = EXPECTED[opened.stored.name]
    assert report.method == method
    assert report.described
    assert len(report.quantized) == 42
    assert report.unquantized == ()
    assert all(pattern.modules for pattern in report.patterns)
    kinds = {(module.bits, module.group, module.activations) for module in report.quantized}
    assert kinds == {(bits, group, activations)}
    assert report.exact is not opened.stored.rounded
    assert bool(report.because) is opened.stored.rounded
    held, *others = report.super_weights
    assert [(other.value, other.step) for other in others] == [(None, None)] * 2
    assert held.module is not None
    assert held.module.module == DOWN
    assert held.parent == VALUE
    assert held.value == pytest.approx(float(opened.checkpoint.matrix(f"{DOWN}.weight").weight[ROW, COLUMN]))
    assert held.step is not None
    assert held.value is not None
    if largest is not None:
        # It is the largest of its group, so that it is this many steps from zero.
        assert held.value / held.step == pytest.approx(largest, rel=5e-3)
    else:
        # A float's neighbour is nearer the more bits it has; with 4 bits it is a third of it at most.
        assert 0.05 * abs(held.value) < held.step < 0.4 * abs(held.value)


def test_a_pattern_that_matches_nothing_is_counted_as_such(tmp_path: Path) -> None:
    folder = make("compressed-tensors-w8a8", tmp_path)
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    quantization["ignore"] += ["model.layer.1.mlp.down_proj", "re:.*experts.*"]
    report = describe(rewrite_config(folder, quantization_config=quantization))
    assert [(count.key, count.pattern, count.modules) for count in report.patterns] == [
        ("ignore", "lm_head", 1),
        ("ignore", "model.layer.1.mlp.down_proj", 0),
        ("ignore", "re:.*experts.*", 0),
        ("config_groups.group_0.targets", "Linear", 43),
    ]
    assert report.super_weights == ()


def test_what_was_left_as_it_was_without_a_pattern_saying_so_is_listed(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"

    def unpack_(tensors: Tensors) -> None:
        # What happens to fused experts in some libraries happens here to one matrix.
        codes, scales = tensors[name].float(), tensors.pop(f"{name}_scale_inv")
        tensors[name] = codes * scales.repeat_interleave(32, 0).repeat_interleave(32, 1)

    report = describe(rewrite_weights(make("fp8", tmp_path), unpack_))
    assert report.unquantized == (name,)
    assert len(report.quantized) == 41


SKIP_ON_LOADING, SKIP = "llm_int8_skip_modules", "modules_to_not_convert"
PATTERNS: dict[str, tuple[dict[str, Any], list[tuple[str, str, str]]]] = {
    "bitsandbytes": ({SKIP_ON_LOADING: ["lm_head"]}, [(SKIP_ON_LOADING, "lm_head", "skip")]),
    "awq": ({SKIP: ["gate", "re:.*o_proj"]}, [(SKIP, "gate", "skip"), (SKIP, "re:.*o_proj", "skip")]),
    "gptq": (
        {
            "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]],
            "dynamic": {"-:.*down_proj": {}, "+:.*up_proj": {"bits": 8}},
        },
        [
            ("modules_in_block_to_quantize", "self_attn.q_proj", "select"),
            ("modules_in_block_to_quantize", "mlp.up_proj", "select"),
            ("dynamic", "-:.*down_proj", "skip"),
            ("dynamic", "+:.*up_proj", "adjust"),
        ],
    ),
    "auto-round": (
        {"extra_config": {"layers.0.mlp.up_proj": {"bits": 16}, "layers.1.mlp.up_proj": {"bits": 8}}},
        [("extra_config", "layers.0.mlp.up_proj", "skip"), ("extra_config", "layers.1.mlp.up_proj", "adjust")],
    ),
    "compressed-tensors": (
        {"ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"]}}},
        [("ignore", "lm_head", "skip"), ("config_groups.group_0.targets", "Linear", "select")],
    ),
}


@pytest.mark.parametrize("method", PATTERNS)
def test_patterns_of_every_library_are_read(method: str) -> None:
    settings, expected = PATTERNS[method]
    patterns = list_patterns(method, settings)
    assert [(pattern.key, pattern.text, pattern.effect) for pattern in patterns] == expected


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("lm_head", "lm_head", True),
        ("layers.1", "model.layers.1.mlp.up_proj", False),
        ("model.layers.1", "model.layers.1.mlp.up_proj", True),
        ("model.layers.1", "model.layers.11.mlp.up_proj", False),
        ("up_proj", "model.layers.1.mlp.up_proj", True),
        ("p_proj", "model.layers.1.mlp.up_proj", False),
        ("re:.*up_proj", "model.layers.1.mlp.up_proj", True),
        ("re:up_proj", "model.layers.1.mlp.up_proj", False),
        ("model.layers.*.mlp", "model.layers.3.mlp.up_proj", True),
        ("(", "model.layers.3.mlp.up_proj", False),
        ("re:(", "model.layers.3.mlp.up_proj", False),
    ],
)
def test_a_pattern_matches_as_the_libraries_match_it(text: str, name: str, *, matches: bool) -> None:
    assert ModulePattern("modules_to_not_convert", text, "skip").matches(name) is matches


def test_what_patterns_leave_out_is_told_from_what_they_do_not() -> None:
    linear = torch.nn.Linear(2, 2)
    skipping = list_patterns(
        "compressed-tensors",
        {"ignore": ["lm_head", "re:.*down_proj"], "config_groups": {"a": {"targets": ["Linear"]}}},
    )
    assert is_left_out(skipping, "model.layers.1.mlp.down_proj", linear)
    assert not is_left_out(skipping, "model.layers.1.mlp.up_proj", linear)
    choosing = list_patterns("gptq", {"modules_in_block_to_quantize": [["mlp.up_proj"]]})
    assert is_left_out(choosing, "model.layers.1.mlp.down_proj", linear)
    assert not is_left_out(choosing, "model.layers.1.mlp.up_proj", linear)
    assert not is_left_out((), "model.layers.1.mlp.up_proj", None)


def test_a_name_that_only_the_files_know_counts_as_matched() -> None:
    patterns = list_patterns("awq", {"modules_to_not_convert": ["block_sparse_moe.experts.0.w2"]})
    (count,) = count_matches(patterns, {}, {}, {"model.layers.0.block_sparse_moe.experts.0.w2"})
    assert count.modules == 1
    (count,) = count_matches(patterns, {}, {}, {"model.layers.0.mlp.experts"})
    assert count.modules == 0


GPT_OSS = next(family for family in EXPERTS if family.model_type == "gpt_oss")
QWEN2_MOE = next(family for family in EXPERTS if family.model_type == "qwen2_moe")
EXPERTS_DOWN = "model.layers.1.mlp.experts.down_proj"


def pack_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pack experts [experts, in, out] as codes of 4 bits, 32 of which share a power of two.

    Returns:
        Two codes a byte, the lower half first, [experts, out, groups, 16]; exponents [experts, out, groups]; what
        these stand for, [experts, in, out].
    """
    experts, columns, rows = weight.shape
    groups = weight.transpose(1, 2).reshape(experts, rows, columns // 32, 32)
    exponents = (groups.abs().amax(-1) / 6).log2().ceil()
    codes = (groups[..., None] / exponents.exp2()[..., None, None] - E2M1).abs().argmin(-1)  # [..., 32]
    stands = E2M1[codes] * exponents.exp2()[..., None]
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    whole = stands.reshape(experts, rows, columns).transpose(1, 2)
    return packed, (exponents + 127).to(torch.uint8), whole


def test_experts_in_mxfp4_are_what_their_codes_stand_for(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    folder = save_checkpoint(tmp_path, GPT_OSS, hidden_size=64, intermediate_size=32)
    expected: Tensors = {}

    def pack_(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(("experts.down_proj", "experts.gate_up_proj"))]:
            blocks, scales, expected[name] = pack_mxfp4(tensors.pop(name).float())
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}

    rewrite_weights(folder, pack_)
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    rewrite_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": skipped})
    policy = ModelPolicy(source=str(folder), dtype="float32")
    checkpoint = open_checkpoint(policy)
    for name, whole in expected.items():
        for expert in range(4):
            assert torch.allclose(checkpoint.matrix(name, expert).weight, whole[expert].T, atol=1e-6)
    value = float(expected[EXPERTS_DOWN][2, 5, 3])
    weight = SuperWeight(parameter=EXPERTS_DOWN, expert=2, row=3, column=5, layer=1, value=0.5, share=1.0)
    report = describe_quantization(checkpoint, policy, (weight,))
    assert report is not None
    assert report.method == "mxfp4"
    assert [count.modules > 0 for count in report.patterns] == [True] * 4
    described = {(module.module, module.bits, module.group) for module in report.quantized}
    assert described == {(name, 4, 32) for name in expected}
    assert report.unquantized == ()
    (held,) = report.super_weights
    assert held.value == pytest.approx(value, abs=1e-6)
    assert held.module is not None


def test_experts_that_a_quantizer_leaves_as_they_were_are_listed(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # On CPUs that multiply bfloat16, bitsandbytes takes matrices of 32 by 64 only, and multiples.
    sizes = {"hidden_size": 64, "head_dim": 32, "shared_expert_intermediate_size": 64}
    make_model(QWEN2_MOE, **sizes).save_pretrained(tmp_path / "plain")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", "shared_expert_gate"],
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "packed")
    make_tokenizer().save_pretrained(tmp_path / "packed")
    report = describe(tmp_path / "packed")
    left = {name for name in report.unquantized if "experts" in name}
    assert {name.rpartition(".")[2] for name in left} == {"down_proj", "gate_up_proj"}
    assert not any("shared_expert.down_proj" in name or "self_attn" in name for name in report.unquantized)
