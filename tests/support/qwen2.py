"""A tiny Qwen2 with a bias in one channel of its keys, as its published relatives have."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

HEADS, CHANNELS, HIDDEN = 2, 64, 64
LAYER, HEAD, CHANNEL = 1, 1, 5
"""Where the bias is."""


def build_qwen2(bias: float = 0.0) -> Any:
    """Build a Qwen2 whose keys have a standard deviation of 0.8, and in one channel of one head a bias."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=101,
        hidden_size=HIDDEN,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=CHANNELS,
        max_position_embeddings=512,
    )
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.8 / math.sqrt(HIDDEN))
    model.model.layers[LAYER].self_attn.k_proj.bias.data[HEAD * CHANNELS + CHANNEL] = bias
    return model
