"""Checkpoints that are large on disk, written shard by shard, with a super weight planted by arithmetic alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from support.checkpoints import make_tokenizer
from transformers import LlamaConfig

BOS = 1
PLANTED = LAYER, ROW, COLUMN = 2, 123, 567
"""Layer, row and column of the super weight."""


@dataclass(frozen=True)
class Size:
    """Dimensions of a Llama.

    Attributes:
        hidden: Width of the residual stream.
        inner: Width of the MLP.
        layers: Decoder layers.
        vocabulary: Rows of the embedding and of the head, which are not tied.
    """

    hidden: int
    inner: int
    layers: int
    vocabulary: int

    @property
    def heads(self) -> int:
        """Attention heads of 128 channels; a third as many keep keys and values."""
        return self.hidden // 128


SEVENTY_BILLION = Size(hidden=8192, inner=28672, layers=80, vocabulary=128256)
THREE_BILLION = Size(hidden=3072, inner=8192, layers=28, vocabulary=32000)
ONE_BILLION = Size(hidden=1920, inner=5120, layers=24, vocabulary=32000)
HUNDRED_MEGABYTES = Size(hidden=768, inner=2048, layers=12, vocabulary=500)


def write_llama(folder: Path, size: Size) -> int:
    """Write a random bfloat16 Llama with a super weight, a shard per layer at a time in memory.

    BOS has a long embedding of signs, which nothing in the first layers outweighs. In the planted layer one
    neuron answers to that direction, and one weight out of it makes the spike.

    Args:
        folder: Where to; it is made.
        size: How large.

    Returns:
        Bytes of weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (size.hidden,)) * 2.0 - 1.0
    shards = [_make_ends(size, signs)]
    weight_map: dict[str, str] = {}
    total = 0
    for number in range(size.layers + 1):
        tensors = shards.pop() if number == 0 else _make_layer(size, number - 1, signs)
        name = f"model-{number + 1:05}-of-{size.layers + 1:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _make_config(size, size.heads // 3).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return total


def write_skeleton(folder: Path, size: Size) -> Path:
    """Write a bfloat16 Llama of which there are configuration, tokenizer and headers alone, and return its folder.

    Its files are as long as they would be, and take no room on the disk: nobody has written into them. Of every
    eight heads one keeps keys and values.
    """
    folder.mkdir(parents=True)
    hidden, kept = size.hidden, max(1, size.heads // 8) * 128
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kept, hidden),
        "self_attn.v_proj": (kept, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (size.inner, hidden),
        "mlp.up_proj": (size.inner, hidden),
        "mlp.down_proj": (hidden, size.inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    ends = {"model.embed_tokens": (size.vocabulary, hidden), "model.norm": (hidden,)}
    shards = [{f"{name}.weight": shape for name, shape in (ends | {"lm_head": (size.vocabulary, hidden)}).items()}]
    for layer in range(size.layers):
        shards.append({f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()})
    weight_map, total = {}, 0
    for number, shard in enumerate(shards):
        name, header, end = f"model-{number + 1:05}-of-{len(shards):05}.safetensors", {}, 0
        for tensor, shape in shard.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        written = json.dumps(header).encode()
        written += b" " * (-len(written) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(written).to_bytes(8, "little") + written)
            file.truncate(8 + len(written) + end)
        weight_map |= dict.fromkeys(shard, name)
        total += end
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _make_config(size, kept // 128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def _make_config(size: Size, key_heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=key_heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=256,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        bos_token_id=BOS,
        eos_token_id=2,
        pad_token_id=0,
    )


def _make_ends(size: Size, signs: torch.Tensor) -> dict[str, torch.Tensor]:
    embedding = _draw(size.vocabulary, size.hidden)
    embedding[BOS] = (10 * signs).bfloat16()
    return {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": torch.ones(size.hidden, dtype=torch.bfloat16),
        "lm_head.weight": _draw(size.vocabulary, size.hidden),
    }


def _make_layer(size: Size, layer: int, signs: torch.Tensor) -> dict[str, torch.Tensor]:
    ones = torch.ones(size.hidden, dtype=torch.bfloat16)
    tensors = {
        "self_attn.q_proj": _draw(size.hidden, size.hidden),
        "self_attn.k_proj": _draw(size.hidden // 3, size.hidden),
        "self_attn.v_proj": _draw(size.hidden // 3, size.hidden),
        "self_attn.o_proj": _draw(size.hidden, size.hidden),
        "mlp.gate_proj": _draw(size.inner, size.hidden),
        "mlp.up_proj": _draw(size.inner, size.hidden),
        "mlp.down_proj": _draw(size.hidden, size.inner),
        "input_layernorm": ones,
        "post_attention_layernorm": ones.clone(),
    }
    if layer == LAYER:
        # After the norm BOS is the signs themselves: both rows answer sqrt(hidden), silu leaves it as it is.
        direction = (signs / math.sqrt(size.hidden)).bfloat16()
        tensors["mlp.gate_proj"][COLUMN] = direction
        tensors["mlp.up_proj"][COLUMN] = direction
        tensors["mlp.down_proj"][ROW, COLUMN] = 1000.0 / size.hidden
    return {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in tensors.items()}


def _draw(rows: int, columns: int) -> torch.Tensor:
    return torch.empty(rows, columns).uniform_(-0.02, 0.02).bfloat16()
