"""The clip that makes the smallest error: found by trying, per scaling group."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sw_audit.policy.recipe import Recipe
from sw_audit.quantize.batch import Batch, Piece
from sw_audit.quantize.clip import Range, clip_range
from sw_audit.quantize.grid import Grid

# From the whole range down to 1 / 147 of it: a super weight is up to some hundred times its group's bulk.
FACTORS = tuple(2 ** (-step / 5) for step in range(37))


def search_bounds(batch: Batch, recipe: Recipe, data: Range) -> Range:
    """Return the bounds, of those at `FACTORS` times each group's largest |w|, that make the smallest error.

    The error is the sum over the group of importance * (w' - w) ** 2, of what clipping and rounding do together;
    importance is 1 where none is given. Of equal errors the wider bounds win. The whole range is among them, so
    that searching is never worse than not clipping.

    Args:
        batch: The groups; held-out weights do not count.
        recipe: The grid that is to be used.
        data: Each group's smallest and largest weight.

    Returns:
        Bounds, [groups, 1] each.
    """
    largest = torch.maximum(data.low.abs(), data.high.abs())
    best = torch.full_like(largest, torch.inf)
    chosen = largest.clone()
    for factor in FACTORS:
        threshold = largest * factor
        grid = Grid(recipe, *clip_range(data, Range(-threshold, threshold)), clipped=True)
        error = torch.stack(batch.each(partial(_add_errors, grid=grid))).sum(0)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, threshold, chosen)
    return Range(-chosen, chosen)


def _add_errors(piece: Piece, grid: Grid) -> Tensor:
    errors = grid.snap_(piece.numbers.clone()).sub_(piece.numbers).square_()
    if piece.importance is not None:
        errors.mul_(piece.importance)
    if piece.absent is not None:
        errors.masked_fill_(piece.absent, 0.0)
    return errors.sum(1, keepdim=True)
