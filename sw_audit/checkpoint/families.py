"""Decoder layers, their MLPs and down-projections: read off the structure of a model, not off its name."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from sw_audit.checkpoint.effective import ProbedMemory
from sw_audit.checkpoint.experts import FusedExperts, find_fused_experts
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix, list_projections
from sw_audit.errors import CheckpointError

# Architectures that exist for filling in masks, which also have a causal head in transformers.
_MASKED = "ForMaskedLM"
# What only a block that mixes tokens is told; an MLP is told nothing but the hidden states.
_TOLD_TO_MIXERS = {
    "attention_mask",
    "alibi",
    "past_key_values",
    "past_key_value",
    "layer_past",
    "cache_params",
    "position_embeddings",
    "position_ids",
    "cu_seqlens",
}

_Pair = tuple[Matrix, torch.nn.Module]


def find_decoder_layers(model: Any) -> tuple[DecoderLayer, ...]:
    """Find the decoder layers of a transformers model, and in each the matrices and the down-projection.

    The decoder is `model.get_decoder()`; its layers are the nearest ModuleList below it that is as long as
    the text configuration says. Among a layer's projections that belong to no block that mixes tokens, the
    down-projection is the widest one that leads back into the residual stream and has a partner leading out
    of it; each expert has its own.

    The model, a `PreTrainedModel`, may be on any device, also on `meta`.

    Raises:
        CheckpointError: If the model is no decoder.
    """
    source = getattr(model, "name_or_path", "") or type(model).__name__
    refuse_other_architectures(model.config, source)
    text = model.config.get_text_config(decoder=True)
    layers = find_layer_modules(model)
    names = {module: name for name, module in model.named_modules()}
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = (getattr(module, "weight", None) for module in embeddings)
    shared = {_identify_storage(weight) for weight in weights if isinstance(weight, torch.Tensor)}
    decoder_layers, memory = [], ProbedMemory()
    for index, module in enumerate(layers):
        name = names[module]
        projections = list_projections(module, name, model.dtype, memory)
        matrices = tuple(_list_matrices(module, name, text.hidden_size, projections, shared))
        downs = tuple(_list_down_projections(module, name, index, text.hidden_size, model.dtype, memory))
        decoder_layers.append(DecoderLayer(index, name, module, downs, matrices))
    return tuple(decoder_layers)


def _list_matrices(
    layer: torch.nn.Module, name: str, hidden: int, projections: Iterable[_Pair], shared: set[int]
) -> Iterator[Matrix]:
    """Yield a layer's matrices whose storage is not in `shared`, and add theirs to it."""
    listed = [matrix for matrix, _ in projections]
    for fused in _list_fused_experts(layer, name, hidden):
        for parameter, tensor in fused.parameters():
            listed += [Matrix(parameter, tensor, fused.transposed, expert=expert) for expert in range(fused.count)]
    own: dict[int, str] = {}
    for matrix in listed:
        storage = _identify_storage(matrix.tensor)
        # All experts of one parameter share its memory and are listed all the same.
        if storage not in shared and own.setdefault(storage, matrix.parameter) == matrix.parameter:
            yield matrix
    shared.update(own)


def require_down_projections(layers: Sequence[DecoderLayer], source: str) -> None:
    """Raise CheckpointError for a model in which no layer has a down-projection."""
    if not any(layer.down_projections for layer in layers):
        found = "no layer has an MLP with a down-projection"
        raise CheckpointError(f"model {source!r}", found, "give a decoder-only language model with MLPs")


def refuse_other_architectures(config: Any, source: str) -> None:
    """Raise CheckpointError for an encoder or an encoder-decoder, by the model's configuration."""
    remedy = "give a decoder-only language model"
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(f"model {source!r}", f"{config.model_type} is an encoder-decoder model", remedy)
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or any(
        name.endswith(_MASKED) for name in getattr(config, "architectures", None) or ()
    )
    # Some families fill in masks or predict the next token; these say so in their configuration.
    causal = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if masked and not causal:
        found = f"{config.model_type} is an encoder-only model, it cannot predict a next token"
        raise CheckpointError(f"model {source!r}", found, remedy)


def find_layer_modules(model: Any) -> Sequence[torch.nn.Module]:
    """Find the modules that are the decoder layers; see `find_decoder_layers`.

    Raises:
        CheckpointError: If there is no list of as many as the configuration says.
    """
    length = model.config.get_text_config(decoder=True).num_hidden_layers
    layers = _search_layers(model, length)
    if layers is None:
        source = getattr(model, "name_or_path", "") or type(model).__name__
        found = f"no list of {length} decoder layers in {type(model).__name__}"
        raise CheckpointError(f"model {source!r}", found, "give a decoder-only language model")
    return layers


def _search_layers(model: Any, length: int) -> Sequence[torch.nn.Module] | None:
    """Search the decoder, then the whole model, level by level, so that the nearest list wins."""
    for root in (model.get_decoder(), model):
        waiting: deque[torch.nn.Module] = deque([root])
        while waiting:
            module = waiting.popleft()
            for child in module.children():
                if isinstance(child, torch.nn.ModuleList):
                    if len(child) == length:
                        return list(child)
                else:
                    waiting.append(child)
    return None


def _list_down_projections(
    layer: torch.nn.Module, name: str, index: int, hidden: int, dtype: torch.dtype, memory: ProbedMemory
) -> Iterator[DownProjection]:
    """Yield a layer's down-projections: that of the dense MLP, or of what all tokens share; then the experts'."""
    dense: list[_Pair] = []
    experts: list[DownProjection] = []
    for child_name, block in layer.named_children():
        if mixes_tokens(block):
            continue
        prefix = f"{name}.{child_name}"
        apart = dict(_list_separate_experts(block, prefix))
        below = tuple(f"{path}." for path in apart)
        projections = list_projections(block, prefix, dtype, memory)
        dense += [pair for pair in projections if not pair[0].parameter.startswith(below)]
        for path, module in apart.items():
            pairs = list(list_projections(module, path, dtype, memory))
            if len(pairs) > 1 and (pair := _choose_widest(pairs, hidden)) is not None:
                experts.append(_as_down_projection(pair, index, expert_module=module))
        for fused in _list_fused_experts(block, prefix, hidden):
            parameter, tensor = list(fused.parameters())[-1]
            if fused.matrix(fused.down, 0).shape[0] == hidden:
                down = partial(
                    DownProjection, parameter, tensor, fused.transposed, index, fused.module, fused=fused
                )
                experts += [down(expert=expert) for expert in range(fused.count)]
    if (pair := _choose_widest(dense, hidden)) is not None:
        yield _as_down_projection(pair, index)
    yield from experts


def _list_fused_experts(root: torch.nn.Module, prefix: str, hidden: int) -> Iterator[FusedExperts]:
    for name, module in root.named_modules(prefix=prefix):
        if (fused := find_fused_experts(module, name, hidden)) is not None:
            yield fused


def _identify_storage(tensor: torch.Tensor) -> int:
    """Return a number that tensors sharing memory have in common, also where there is no memory (meta)."""
    return tensor.data_ptr() or id(tensor)


def _choose_widest(pairs: Sequence[_Pair], hidden: int) -> _Pair | None:
    """Choose the widest projection back into the residual stream that has a partner out of it."""
    outward = {matrix.shape[0] for matrix, _ in pairs if matrix.shape[1] == hidden}
    candidates = [
        (matrix, module)
        for matrix, module in pairs
        if matrix.shape[0] == hidden
        # A gate and its partner may be one matrix of twice the width.
        and any(matrix.shape[1] * times in outward for times in (1, 2))
    ]
    if not candidates:
        return None
    width = max(matrix.shape[1] for matrix, _ in candidates)
    return [pair for pair in candidates if pair[0].shape[1] == width][-1]


def _as_down_projection(pair: _Pair, index: int, expert_module: torch.nn.Module | None = None) -> DownProjection:
    matrix, module = pair
    stored = (matrix.parameter, matrix.tensor, matrix.transposed)
    return DownProjection(*stored, index, module, expert_module=expert_module, probed=matrix.probed)


def mixes_tokens(block: torch.nn.Module) -> bool:
    """Tell whether a block of a layer lets tokens see each other, as attention does and an MLP does not."""
    return bool(_TOLD_TO_MIXERS & inspect.signature(block.forward).parameters.keys())


def _list_separate_experts(block: torch.nn.Module, name: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the members of lists of modules: each is an expert, called with its own tokens."""
    for list_name, module in block.named_modules(prefix=name):
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
            for member_name, member in module.named_children():
                yield f"{list_name}.{member_name}", member
