"""Formats packed by hand, by the arithmetic that defines them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file
from torch import Tensor

FP8_BLOCK = 32
_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is a decoder matrix."""
    return ".layers." in name and tensor.ndim == 2


def pack_fp8(tensors: dict[str, Tensor]) -> None:
    """Round decoder matrices to FP8 in blocks of 32 x 32, each with its own scale, as DeepSeek stores them."""
    for name, weight in list(tensors.items()):
        if not is_matrix(name, weight):
            continue
        rows, columns = weight.shape
        blocks = weight.view(rows // FP8_BLOCK, FP8_BLOCK, columns // FP8_BLOCK, FP8_BLOCK)
        scales = blocks.abs().amax((1, 3)).clamp_min(1e-12) / 448.0  # [bands, parts]
        codes = (blocks / scales[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn)
        tensors[name] = codes
        tensors[f"{name}_scale_inv"] = scales


def unpack_fp8(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return the matrix that FP8 codes and scales stand for, float32 [out, in]."""
    scales = tensors[f"{name}_scale_inv"]
    return tensors[name].float() * scales.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)


def prune_two_in_four(tensors: dict[str, Tensor]) -> None:
    """Zero the two smallest of any four neighbours in the MLPs; in all matrices it ruins so small a model."""
    for name, weight in tensors.items():
        if ".mlp." in name:
            fours = weight.view(-1, 4)
            fours.scatter_(1, fours.abs().argsort(1)[:, :2], 0.0)


def prune(tensors: dict[str, Tensor]) -> None:
    """Zero the smallest quarter of each decoder matrix."""
    for name, weight in tensors.items():
        if is_matrix(name, weight):
            weight[weight.abs() < weight.abs().flatten().quantile(0.25)] = 0.0


def pack_gguf(
    source: Path,
    target: Path,
    kind: str,
    tokens: Sequence[str] = (),
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a Llama or Qwen2 checkpoint as a GGUF file, its matrices quantized, as llama.cpp's converter does.

    Args:
        source: Folder of the checkpoint.
        target: The file.
        kind: GGUF's name of the quantization, such as `Q8_0`.
        tokens: Vocabulary of a tokenizer that is written too, where there are any; pairs of letters are merged.
        texts: Further metadata by key, texts and flags.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = json.loads((source / "config.json").read_text())
    heads = config["num_attention_heads"]
    writer = GGUFWriter(target, config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config.get("head_dim", config["hidden_size"] // heads))
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(list(tokens))
        writer.add_token_merges([" ".join(token) for token in tokens if len(token) == 2])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
    for key, text in texts.items():
        writer.add_bool(key, text) if isinstance(text, bool) else writer.add_string(key, text)
    for name, tensor in load_file(source / "model.safetensors").items():
        stem, _, last = name.rpartition(".")
        if ".layers." in name:
            _, _, layer, part = stem.split(".", 3)
            stored = f"blk.{layer}.{_GGUF_NAMES[part]}.{last}"
            if config["model_type"] == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                # llama.cpp rotates pairs that lie side by side, transformers halves.
                rows, columns = tensor.shape
                tensor = tensor.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        else:
            stored = f"{_GGUF_NAMES[stem]}.{last}"
        how = GGMLQuantizationType[kind if is_matrix(name, tensor) else "F32"]
        writer.add_tensor(stored, quantize(tensor.float().numpy(), how), raw_dtype=how)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
