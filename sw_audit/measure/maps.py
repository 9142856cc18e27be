"""Takes down what is seen at a glance: activations by layer and token, and the weights around a super weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.record.address import WeightAddress
from sw_audit.record.location import Location, SuperWeight
from sw_audit.record.maps import ActivationMap, Neighbourhood

_TOKENS, _LAYERS = 64, 96
"""Most that a map shows."""
_SIDE = 8
"""Rows and columns on each side of a scalar."""
_ROWS_AT_ONCE = 64


def map_activations(
    tokenizer: Any, location: Location, before: Sequence[Tensor], after: Sequence[Tensor]
) -> ActivationMap:
    """Take down the largest magnitude by layer and token, before and after, as float32 has it.

    Args:
        tokenizer: The model's tokenizer; without one tokens are written as their numbers.
        location: Where its super weights are; it names the prompt.
        before: Output of every decoder layer on the prompt, [tokens, hidden] each.
        after: Likewise after something was done to the model, or of another model.
    """
    layers = len(before)
    shown = (
        [*range(layers)]
        if layers <= _LAYERS
        else [place * (layers - 1) // (_LAYERS - 1) for place in range(_LAYERS)]
    )
    held = max((activation.token for activation in location.super_activations), default=0)
    first = max(0, min(held - _TOKENS // 2, len(location.token_ids) - _TOKENS))
    end = first + _TOKENS

    def take(states: Sequence[Tensor]) -> tuple[tuple[float | None, ...], ...]:
        return write_rows(states[layer][first:end].abs().amax(1) for layer in shown)

    return ActivationMap(
        tokens=tuple(
            str(token) if tokenizer is None else tokenizer.decode([token])
            for token in location.token_ids[first:end]
        ),
        first_token=first,
        layers=tuple(shown),
        before=take(before),
        after=take(after),
    )


def read_neighbourhoods(checkpoint: Checkpoint, super_weights: Iterable[SuperWeight]) -> tuple[Neighbourhood, ...]:
    """Read what is around each super weight in its matrix."""
    return tuple(
        read_neighbourhood(checkpoint.matrix(one.parameter, one.expert).weight, one.address, one.layer)
        for one in super_weights
    )


def read_neighbourhood(weight: Tensor, address: WeightAddress, layer: int) -> Neighbourhood:
    """Read what is around a scalar in its matrix, [out, in], clipped at the edge, and the scalar's rank in it."""
    row, column = address.row, address.column
    magnitude = weight[row, column].abs()
    parts = (weight[begin : begin + _ROWS_AT_ONCE] for begin in range(0, len(weight), _ROWS_AT_ONCE))
    larger = sum(int((part.abs() > magnitude).sum()) for part in parts)
    first_row, first_column = max(0, row - _SIDE), max(0, column - _SIDE)
    shown = weight[first_row : row + _SIDE + 1, first_column : column + _SIDE + 1]
    return Neighbourhood(
        address=address,
        layer=layer,
        rows=weight.shape[0],
        columns=weight.shape[1],
        rank=1 + larger if bool(magnitude.isfinite()) else None,
        first_row=first_row,
        first_column=first_column,
        values=write_rows(shown),
    )


def write_rows(rows: Iterable[Tensor]) -> tuple[tuple[float | None, ...], ...]:
    """Write rows with no more digits than tell each float32 from all others; `None` is not finite."""
    written = (row.detach().float().cpu().numpy().astype(str).astype(float).tolist() for row in rows)
    return tuple(tuple(value if math.isfinite(value) else None for value in row) for row in written)
