"""Tiny random models of real architectures into which a super weight is planted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.families import find_decoder_layers
from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.facts.identity import ModelIdentity


def wrap_model(model: torch.nn.Module, tokenizer: object = None) -> Checkpoint:
    """Wrap a model built in memory the way `open_checkpoint` wraps one from disk."""
    model.eval().requires_grad_(False)
    layers = find_decoder_layers(model)
    identity = ModelIdentity(
        id="planted",
        source="memory",
        revision=None,
        family=model.config.model_type,
        architecture=type(model).__name__,
        layers=len(layers),
        hidden_size=model.config.hidden_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device="cpu",
        files=(),
        digest="0" * 64,
    )
    return Checkpoint(model=model, tokenizer=tokenizer, identity=identity, layers=layers)


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
    """Plant a super weight: one neuron answers to a sequence's first token, one weight makes a spike of it.

    The rows that lead into the neuron are set along the MLP's input at that token, so that no other token
    drives it as far; the one weight out of it is then the spike over what the neuron says there.
    """
    layer = checkpoint.layers[planted.layer]
    down = layer.down_projection
    assert down is not None
    hidden, inner = down.weight.shape
    block = checkpoint.model.get_submodule(down.parameter.rsplit(".", 2)[0])
    inward = [matrix for matrix, _ in list_projections(block, "") if matrix.weight.shape[1] == hidden]
    with torch.no_grad():
        entering = _see_input(checkpoint, block, token_id)
        for matrix in inward:
            for begin in range(0, matrix.weight.shape[0], inner):  # gate and up may be one matrix
                matrix.weight[begin + planted.column] = 3.0 * entering / entering.square().sum()
        said = _see_input(checkpoint, down.module, token_id)[planted.column]
        down.weight[planted.row, planted.column] = sign * spike / said


def _see_input(checkpoint: Checkpoint, module: torch.nn.Module, token_id: int) -> torch.Tensor:
    """Return what enters a module at the first token, [channels]."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    checkpoint.model(input_ids=torch.tensor([[token_id, 5, 7, 11]]), use_cache=False)
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])[0]
