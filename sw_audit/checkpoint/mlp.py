"""What in a decoder layer is its MLP, and which matrices of it write into the residual stream."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch

from sw_audit.checkpoint.effective import ProbedMemory
from sw_audit.checkpoint.matrices import (
    DownProjection,
    Matrix,
    list_fused_experts,
    list_projections,
)

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


def find_down_projections(
    layer: torch.nn.Module,
    name: str,
    index: int,
    hidden: int,
    dtype: torch.dtype = torch.float32,
    memory: ProbedMemory | None = None,
) -> tuple[DownProjection, ...]:
    """Find the down-projections of a decoder layer, outside of the blocks that mix tokens.

    Args:
        layer: The layer.
        name: Its qualified name.
        index: Its number.
        hidden: Width of the residual stream.
        dtype: The model's dtype, in which opaque modules are probed.
        memory: Where probed matrices are kept.

    Returns:
        That of the dense MLP, or of what all tokens share, first; then one per expert.
    """
    dense: list[_Pair] = []
    experts: list[DownProjection] = []
    for block, prefix in _list_mlp_blocks(layer, name):
        apart = dict(_list_separate_experts(block, prefix))
        pairs = list(list_projections(block, prefix, dtype, memory))
        dense += [pair for pair in pairs if not _is_below(pair[0].parameter, tuple(apart))]
        for path, module in apart.items():
            pairs = list(list_projections(module, path, dtype, memory))
            if len(pairs) > 1 and (pair := _choose_widest(pairs, hidden)) is not None:
                experts.append(_as_down_projection(pair, index, expert_module=module))
        for fused in list_fused_experts(block, prefix, hidden):
            parameter, tensor = list(fused.parameters())[-1]
            if fused.matrix(fused.down, 0).shape[0] == hidden:
                experts += [
                    DownProjection(
                        parameter, tensor, fused.transposed, index, fused.module, expert=expert, fused=fused
                    )
                    for expert in range(fused.count)
                ]
    pair = _choose_widest(dense, hidden)
    return (*([] if pair is None else [_as_down_projection(pair, index)]), *experts)


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
    return DownProjection(
        matrix.parameter,
        matrix.tensor,
        matrix.transposed,
        index,
        module,
        expert_module=expert_module,
        probed=matrix.probed,
    )


def mixes_tokens(block: torch.nn.Module) -> bool:
    """Tell whether a block of a layer lets tokens see each other, as attention does and an MLP does not."""
    return bool(_TOLD_TO_MIXERS & inspect.signature(block.forward).parameters.keys())


def _list_mlp_blocks(layer: torch.nn.Module, name: str) -> Iterator[tuple[torch.nn.Module, str]]:
    """Yield the layer's children, named, that see one token at a time."""
    for child_name, child in layer.named_children():
        if not mixes_tokens(child):
            yield child, f"{name}.{child_name}"


def _list_separate_experts(block: torch.nn.Module, name: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the members of lists of modules: experts side by side, each called with its own tokens."""
    for list_name, module in block.named_modules(prefix=name):
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
            for member_name, member in module.named_children():
                yield f"{list_name}.{member_name}", member


def _is_below(parameter: str, names: tuple[str, ...]) -> bool:
    return any(parameter.startswith(f"{name}.") for name in names)
