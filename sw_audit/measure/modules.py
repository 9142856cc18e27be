"""Holds the modules of a descendant's decoder layers against its parent's: whose weights differ most."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.record.address import WeightAddress

# Columns that are looked at of a matrix that has to be probed, besides those of super weights.
_PROBED_COLUMNS = 64


@torch.no_grad()
def rank_modules(
    parent: Checkpoint, descendant: Checkpoint, super_weights: Collection[WeightAddress] = ()
) -> tuple[tuple[str, float | None], ...]:
    """Rank the modules of a descendant by how far their weights are from the parent's.

    The figure is the norm of the difference over the norm of the parent's weights, all experts of a module
    together. A matrix that can only be probed is sampled: so many columns, spread over all of it, stand for the
    others; the columns of super weights stand for themselves.

    Args:
        parent: The parent; its layers may be in memory only while they run.
        descendant: The descendant, in any format.
        super_weights: The parent's.

    Returns:
        Qualified names in the descendant with their error, worst first: before all others what is not finite, with
        `None`. What only one of the two has, or in another shape, is left out.
    """
    found = [
        (f"{ours.name}.{path}", error)
        for theirs, ours in zip(parent.layers, descendant.layers, strict=False)
        for path, error in _measure_layer(theirs, ours, super_weights)
    ]
    return tuple(sorted(found, key=lambda one: -math.inf if one[1] is None else -one[1]))


def _measure_layer(
    theirs: DecoderLayer, ours: DecoderLayer, super_weights: Collection[WeightAddress]
) -> Iterator[tuple[str, float | None]]:
    """Yield each module of a layer, by its name inside of it, with the relative error of its weights."""
    sums: dict[str, list[float]] = {}
    for matrix in theirs.matrices:
        inside = matrix.parameter.removeprefix(theirs.name)
        here = _find(ours, ours.name + inside, matrix.expert)
        if here is None or here.shape != matrix.shape:
            continue
        own = (matrix.parameter, matrix.expert)
        hot = {one.column for one in super_weights if (one.parameter, one.expert) == own}
        both = sums.setdefault(inside.removeprefix(".").rpartition(".")[0], [0.0, 0.0])
        for columns, weight in _choose_columns(here, hot):
            there = _read(matrix, columns)
            both[0] += weight * float((_read(here, columns) - there).square().sum())
            both[1] += weight * float(there.square().sum())
    for path, (noise, signal) in sums.items():
        if signal:
            error = math.sqrt(noise / signal)
            yield path, error if math.isfinite(error) else None


def _find(layer: DecoderLayer, parameter: str, expert: int | None) -> Matrix | None:
    return next((one for one in layer.matrices if (one.parameter, one.expert) == (parameter, expert)), None)


def _choose_columns(matrix: Matrix, hot: Collection[int]) -> Iterator[tuple[Tensor | None, float]]:
    """Yield columns to look at, int64, or `None` for all; each time with how many columns each stands for."""
    width = matrix.shape[1]
    others = torch.tensor([column for column in range(width) if column not in hot])
    if matrix.probed is None or len(others) <= _PROBED_COLUMNS:
        yield None, 1.0
        return
    yield others[torch.linspace(0, len(others) - 1, _PROBED_COLUMNS).long()], len(others) / _PROBED_COLUMNS
    if hot:
        yield torch.tensor(sorted(hot)), 1.0


def _read(matrix: Matrix, columns: Tensor | None) -> Tensor:
    """Read a matrix, or some of its columns, float64 on the CPU."""
    if columns is None or matrix.probed is None:
        weight = matrix.weight.detach()
        return (weight if columns is None else weight[:, columns.to(weight.device)]).cpu().double()
    grid = torch.cartesian_prod(torch.arange(matrix.shape[0]), columns).to(matrix.device)  # [out * columns, 2]
    return matrix.read_scalars(grid[:, 0], grid[:, 1]).cpu().double().view(-1, len(columns))
