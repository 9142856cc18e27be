"""The grid of levels that a scaling group is rounded to.

Asymmetric: q = round((w - low) / step), w' = low + step * q, with step = (high - low) / (2 ** bits - 1) as the
paper's released code has it (the paper prints 2 ** (bits - 1) - 1). The lower end is a grid point; zero is one
only by chance. Symmetric: w' = step * round(w / step), with step = max(|low|, |high|) / (2 ** (bits - 1) - 1).
Halves round to even. Normal floats: w' = largest * level, with largest = max(|low|, |high|) and the level nearest
to w / largest; in the middle between two, the lower. The range is never widened to hold zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sw_audit.policy.recipe import Recipe, find_levels

# So many cells between -1 and 1: few enough for a fast cache, and two midpoints are dozens of them apart.
_CELLS = 2**10
# So many weights are looked up at a time: what that needs in between stays in a cache, too.
_LOOKED_UP = 2**18


@dataclass(frozen=True, eq=False)
class Grid:
    """One grid per scaling group.

    Attributes:
        recipe: Says of which kind.
        low: Lower end of the range, [groups, 1].
        high: Upper end, likewise.
        clipped: Whether weights may lie outside; they are moved to the ends first.
    """

    recipe: Recipe
    low: Tensor
    high: Tensor
    clipped: bool

    def snap_(self, numbers: Tensor) -> Tensor:
        """Round weights to the nearest grid point, [groups, members], in place."""
        if self.clipped:
            torch.maximum(numbers, self.low, out=numbers)
            torch.minimum(numbers, self.high, out=numbers)
        if self.recipe.levels == "normal-float":
            return _snap_to_levels_(numbers, self._largest(), self.recipe.bits)
        if self.recipe.symmetric:
            return self._snap_symmetric_(numbers)
        return self._snap_asymmetric_(numbers)

    def _largest(self) -> Tensor:
        return torch.maximum(self.low.abs(), self.high.abs())

    def _snap_asymmetric_(self, numbers: Tensor) -> Tensor:
        levels = 2**self.recipe.bits - 1
        step = (self.high - self.low).div_(levels)
        tiny = _has_tiny(step)
        if tiny:
            # Equal weights are at level 0, whatever the step.
            step.masked_fill_(step == 0, 1.0)
        numbers.sub_(self.low).div_(step).round_()
        if tiny:
            numbers.clamp_(0, levels)
        return numbers.mul_(step).add_(self.low)

    def _snap_symmetric_(self, numbers: Tensor) -> Tensor:
        levels = 2 ** (self.recipe.bits - 1) - 1
        largest = self._largest()
        # Equal weights are one step from zero: x / 7 * 7 is not always x.
        step = torch.where(self.low == self.high, largest, largest / levels)
        tiny = _has_tiny(step)
        if tiny:
            step.masked_fill_(step == 0, 1.0)
        numbers.div_(step).round_()
        if tiny:
            numbers.clamp_(-levels, levels)
        return numbers.mul_(step)


def _has_tiny(step: Tensor) -> bool:
    """Whether a step is zero, or so small that its own rounding (to a subnormal) makes room for another level."""
    return step.amin().item() < 2**10 * torch.finfo(step.dtype).tiny


def _snap_to_levels_(numbers: Tensor, scale: Tensor, bits: int) -> Tensor:
    scale.masked_fill_(scale == 0, 1.0)
    numbers.div_(scale)
    levels, middles = _list_levels(bits, numbers.dtype, numbers.device)
    if numbers.device.type != "cpu" or math.isnan(scale.amax().item()):
        return torch.mul(levels[torch.bucketize(numbers, middles)], scale, out=numbers)
    # A binary search per weight takes ten times as long as two looks into tables.
    middles, pairs = _tabulate_levels(bits, numbers.dtype, numbers.device)
    flat = numbers.view(-1)
    half = torch.tensor(_CELLS / 2, dtype=flat.dtype)
    cells, above = (torch.empty(min(_LOOKED_UP, flat.numel()), dtype=flat.dtype) for _ in range(2))
    places = torch.empty_like(cells, dtype=torch.int32)
    for part in torch.split(flat, _LOOKED_UP):
        cell, upper, place = cells[: len(part)], above[: len(part)], places[: len(part)]
        torch.add(half, part, alpha=_CELLS / 2, out=cell).floor_()
        torch.index_select(middles, 0, place.copy_(cell), out=upper)
        torch.gt(part, upper, out=upper)
        torch.index_select(pairs, 0, place.copy_(upper.add_(cell, alpha=2)), out=part)
    return numbers.mul_(scale)


@lru_cache(maxsize=16)
def _list_levels(bits: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(find_levels(bits), dtype=torch.float64)
    return levels.to(device, dtype), ((levels[1:] + levels[:-1]) / 2).to(device, dtype)


@lru_cache(maxsize=16)
def _tabulate_levels(bits: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, per cell of [-1, 1], the nearest midpoint, [cells], and the levels on its both sides, [2 * cells].

    A cell without a midpoint lies on one side of the nearest one, with all numbers in it, also those that rounding
    errors brought there from next door.
    """
    levels, middles = _list_levels(bits, dtype, device)
    centers = (torch.arange(_CELLS + 1, dtype=torch.float64) + 0.5) / (_CELLS / 2) - 1
    distances = (centers.to(device, dtype)[:, None] - middles).abs()
    nearest = distances.argmin(1)
    return middles[nearest], torch.stack((levels[nearest], levels[nearest + 1]), 1).view(-1)
