"""Fused experts: MXFP4 as gpt-oss stores it, and what a quantizer leaves as it was in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import EXPERTS, make_model, make_tokenizer, rewrite_config, save_checkpoint
from support.decoding import E2M1
from torch import Tensor

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import SuperWeight

GPT_OSS = next(one for one in EXPERTS if one.model_type == "gpt_oss")
QWEN2_MOE = next(one for one in EXPERTS if one.model_type == "qwen2_moe")
DOWN = "model.layers.1.mlp.experts.down_proj"


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
    tensors = load_file(folder / "model.safetensors")
    expected = {}
    for name in [one for one in tensors if one.endswith(("experts.down_proj", "experts.gate_up_proj"))]:
        blocks, scales, expected[name] = pack_mxfp4(tensors.pop(name).float())
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    rewrite_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": skipped})
    wanted = ModelPolicy(source=str(folder), dtype="float32")
    checkpoint = open_checkpoint(wanted)
    for name, whole in expected.items():
        for expert in range(4):
            found = checkpoint.matrix(name, expert).weight
            assert torch.allclose(found, whole[expert].T, atol=1e-6)
    value = float(expected[DOWN][2, 5, 3])
    weight = SuperWeight(parameter=DOWN, expert=2, row=3, column=5, layer=1, value=0.5, share=1.0)
    report = describe_quantization(checkpoint, wanted, (weight,))
    assert report is not None
    assert report.method == "mxfp4"
    assert [one.modules > 0 for one in report.patterns] == [True] * 4
    assert {(one.module, one.bits, one.group) for one in report.quantized} == {(name, 4, 32) for name in expected}
    assert report.unquantized == ()
    (held,) = report.super_weights
    assert held.value == pytest.approx(value, abs=1e-6)
    assert held.module is not None


def test_experts_that_a_quantizer_leaves_as_they_were_are_listed(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model(QWEN2_MOE).save_pretrained(tmp_path / "plain")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "packed")
    make_tokenizer().save_pretrained(tmp_path / "packed")
    wanted = ModelPolicy(source=str(tmp_path / "packed"))
    report = describe_quantization(open_checkpoint(wanted), wanted)
    assert report is not None
    left = {name for name in report.unquantized if "experts" in name}
    assert {name.rpartition(".")[2] for name in left} == {"down_proj", "gate_up_proj"}
    assert not any("shared_expert.down_proj" in name or "self_attn" in name for name in report.unquantized)
