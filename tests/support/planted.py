"""Tiny random models of real architectures into which a super weight is planted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.record.address import AddressGroup
from sw_audit.testing import Stem, plant_stems_, wrap_model
from sw_audit.testing.planting import choose_down

__all__ = ["Planted", "build_gpt2", "build_llama", "name_planted", "plant_", "wrap_model"]


def build_llama(*, layers: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Build a random Llama whose dimensions all differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to(dtype)


def build_gpt2(*, layers: int = 6, seed: int = 0) -> GPT2LMHeadModel:
    """Build a random GPT-2, whose Conv1D layers are transposed."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=101, n_embd=48, n_layer=layers, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Planted:
    """Where a super weight was planted."""

    layer: int
    row: int
    column: int


def plant_(
    checkpoint: Checkpoint, planted: Planted, token_id: int = 1, spike: float = 40.0, sign: float = 1.0
) -> None:
    """Plant a super weight: one neuron answers to a sequence's first token, one weight makes a spike of it."""
    down = choose_down(checkpoint, planted.layer)
    stem = Stem(planted.row, planted.column, sign * spike)
    plant_stems_(checkpoint, [token_id, 5, 7, 11], 0, down, [stem])


def name_planted(checkpoint: Checkpoint, planted: Planted) -> AddressGroup:
    """Name a planted super weight as acts do."""
    down = choose_down(checkpoint, planted.layer)
    return AddressGroup(parameter=down.parameter, rows=(planted.row,), columns=(planted.column,))
