"""Where a model keeps its decoder layers and their down-projections: read off its structure, not off its name."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sw_audit.checkpoint.matrices import (
    DecoderLayer,
    DownProjection,
    identify_storage,
    list_projections,
)
from sw_audit.errors import CheckpointError

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
# Architectures that exist for filling in masks, which also have a causal head in transformers.
_MASKED = "ForMaskedLM"


def find_decoder_layers(model: Any) -> tuple[DecoderLayer, ...]:
    """Find the decoder layers of a transformers model, and in each the matrices and the down-projection.

    The decoder is `model.get_decoder()`; its layers are the nearest ModuleList below it that is as long as
    the text configuration says. Among a layer's projections that belong to no block that mixes tokens, the
    down-projection is the widest one that leads back into the residual stream and has a partner leading out
    of it. A layer that keeps experts has no single down-projection.

    Args:
        model: A `PreTrainedModel`, on any device, also on `meta`.

    Raises:
        CheckpointError: If the model is no decoder.
    """
    source = _name_model(model)
    refuse_other_architectures(model.config, source)
    text = model.config.get_text_config(decoder=True)
    layers = _find_layer_list(model, text.num_hidden_layers)
    if layers is None:
        raise CheckpointError(
            f"model {source!r}",
            f"no list of {text.num_hidden_layers} decoder layers in {type(model).__name__}",
            "give a decoder-only language model",
        )
    names = {module: name for name, module in model.named_modules()}
    shared = {identify_storage(weight) for weight in _list_embeddings(model)}
    found = []
    for index, module in enumerate(layers):
        name = names[module]
        matrices = []
        for matrix, _ in list_projections(module, name):
            if (storage := identify_storage(matrix.tensor)) not in shared:
                shared.add(storage)
                matrices.append(matrix)
        down = _find_down_projection(module, name, index, text.hidden_size)
        found.append(DecoderLayer(index, name, module, down, tuple(matrices)))
    return tuple(found)


def require_down_projections(layers: Sequence[DecoderLayer], source: str) -> None:
    """Refuse a model in which no layer has a down-projection of its own.

    Args:
        layers: What `find_decoder_layers` found.
        source: What the user calls the model.

    Raises:
        CheckpointError: If there is none, telling fused experts from models without an MLP.
    """
    if any(layer.down_projection is not None for layer in layers):
        return
    if any(_holds_experts(layer.module) for layer in layers):
        found = "every MLP consists of experts, none with a down-projection of its own"
    else:
        found = "no layer has an MLP with a down-projection"
    raise CheckpointError(f"model {source!r}", found, "give a dense decoder-only language model")


def refuse_other_architectures(config: Any, source: str) -> None:
    """Refuse what is not a decoder-only language model, as far as its configuration says so.

    Args:
        config: The model's `PreTrainedConfig`.
        source: What to call the model.

    Raises:
        CheckpointError: For encoder-only and encoder-decoder models.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    remedy = "give a decoder-only language model"
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(f"model {source!r}", f"{config.model_type} is an encoder-decoder model", remedy)
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or any(
        name.endswith(_MASKED) for name in getattr(config, "architectures", None) or ()
    )
    # Some families fill in masks or predict the next token; these say so in their configuration.
    causal = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if masked and not causal:
        raise CheckpointError(
            f"model {source!r}",
            f"{config.model_type} is an encoder-only model, it cannot predict a next token",
            remedy,
        )


def _find_layer_list(model: Any, length: int) -> Sequence[torch.nn.Module] | None:
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


def _find_down_projection(layer: torch.nn.Module, name: str, index: int, hidden: int) -> DownProjection | None:
    """Find the widest projection back into the residual stream outside of the blocks that mix tokens."""
    if _holds_experts(layer):
        return None
    pairs = [pair for block, prefix in _list_mlp_blocks(layer, name) for pair in list_projections(block, prefix)]
    outward = {matrix.weight.shape[0] for matrix, _ in pairs if matrix.weight.shape[1] == hidden}
    candidates = [
        (matrix, module)
        for matrix, module in pairs
        if matrix.weight.shape[0] == hidden
        # A gate and its partner may be one matrix of twice the width.
        and any(matrix.weight.shape[1] * times in outward for times in (1, 2))
    ]
    if not candidates:
        return None
    width = max(matrix.weight.shape[1] for matrix, _ in candidates)
    widest = [(matrix, module) for matrix, module in candidates if matrix.weight.shape[1] == width]
    matrix, module = widest[-1]
    return DownProjection(matrix.parameter, matrix.tensor, matrix.transposed, index, module)


def _list_mlp_blocks(layer: torch.nn.Module, name: str) -> Iterator[tuple[torch.nn.Module, str]]:
    """Yield the layer's children, named, that see one token at a time."""
    for child_name, child in layer.named_children():
        if not _TOLD_TO_MIXERS & inspect.signature(child.forward).parameters.keys():
            yield child, f"{name}.{child_name}"


def _holds_experts(layer: torch.nn.Module) -> bool:
    """Tell whether a layer keeps experts: fused in a three-dimensional parameter, or side by side in a list."""
    for block, _ in _list_mlp_blocks(layer, ""):
        for module in block.modules():
            fused = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
            if fused and not isinstance(module, torch.nn.Conv1d):
                return True
            if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
                return True
    return False


def _list_embeddings(model: Any) -> Iterator[torch.Tensor]:
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor):
            yield weight


def _name_model(model: Any) -> str:
    return getattr(model, "name_or_path", "") or type(model).__name__
