"""Round-to-nearest: to a grid of 2 ** bits levels and back (Yu et al. 2024, section 4).

Asymmetric: q = round((w - min) / step), w' = min + step * q, with step = (max - min) / (2 ** bits - 1) as the
released code has it (the paper prints 2 ** (bits - 1) - 1). The smallest weight of a group is a grid point; zero
is one only by chance. Symmetric: w' = step * round(w / step), with step = max|w| / (2 ** (bits - 1) - 1). The
range is that of the data, clipped where the recipe says so, and never widened to hold zero. Halves round to even.

float64 is computed in float64, everything else in float32. Besides the result there is at most one temporary of
the matrix's size (in the dtype of the computation), and one more, with a mask, where outliers are clipped.
"""

from __future__ import annotations

import torch

from sw_audit.facts.recipe import Recipe
from sw_audit.quantize.clip import find_threshold
from sw_audit.quantize.groups import Region, split_groups


def round_to_nearest(
    weight: torch.Tensor, recipe: Recipe, holdout: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Round a matrix to a recipe's grid and back.

    Rounding the result again with the same recipe changes nothing but for rounding errors of the computation
    (without clipping; a clipped range is narrower, so its threshold moves).

    Args:
        weight: [rows, columns] in (out, in) order, floating, with any strides.
        recipe: Bits, granularity, symmetry, clipping.
        holdout: Rows and columns, int64 [weights] each, of weights that are taken out before ranges are computed
            and put back bit for bit after.

    Returns:
        A new contiguous tensor of the same shape and dtype. A group whose weights are all equal, or all held
        out, comes back exact.

    Raises:
        ValueError: If the weight is not a floating matrix.
    """
    with torch.no_grad():
        rounded = _round(weight, recipe, holdout).to(weight.dtype)
        if holdout is not None:
            rounded[holdout] = weight[holdout]
        return rounded


def round_to_nearest_(
    weight: torch.Tensor, recipe: Recipe, holdout: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Round a matrix in place; see `round_to_nearest`.

    Returns:
        The same tensor.

    Raises:
        ValueError: If the weight is not a floating matrix.
    """
    with torch.no_grad():
        kept = None if holdout is None else weight[holdout].clone()
        weight.copy_(_round(weight, recipe, holdout))
        if holdout is not None and kept is not None:
            weight[holdout] = kept
        return weight


def _round(
    weight: torch.Tensor, recipe: Recipe, holdout: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"a floating matrix is wanted, not {weight.dtype} of shape {tuple(weight.shape)}")
    dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
    buffer = torch.empty(weight.shape, dtype=dtype, device=weight.device).copy_(weight)
    if not buffer.numel():
        return buffer
    # Views of the buffer, so that what is written at held-out places is seen by all of them.
    regions = split_groups(buffer, recipe.granularity)
    bounds = _find_ranges(buffer, regions, recipe, holdout)
    for region, (low, high) in zip(regions, bounds, strict=True):
        if recipe.symmetric:
            _snap_symmetric_(region.view, low, high, recipe.bits)
        else:
            _snap_asymmetric_(region.view, low, high, recipe.bits)
    return buffer


def _find_ranges(
    buffer: torch.Tensor,
    regions: tuple[Region, ...],
    recipe: Recipe,
    holdout: tuple[torch.Tensor, torch.Tensor] | None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each region's low and high ends per group, held-out weights left out; these are 0 afterwards."""

    def fill_holdout(value: float) -> None:
        if holdout is not None:
            buffer[holdout] = value

    fill_holdout(torch.inf)
    lows = [region.view.amin(region.inner, keepdim=True) for region in regions]
    fill_holdout(-torch.inf)
    highs = [region.view.amax(region.inner, keepdim=True) for region in regions]
    fill_holdout(0.0)
    if holdout is not None:
        for low, high in zip(lows, highs, strict=True):
            empty = low > high
            low.masked_fill_(empty, 0.0)
            high.masked_fill_(empty, 0.0)
    if recipe.clip is not None:
        absent: list[torch.Tensor | None] = [None] * len(regions)
        if holdout is not None:
            mask = torch.zeros_like(buffer, dtype=torch.bool)
            mask[holdout] = True
            absent = [region.view for region in split_groups(mask, recipe.granularity)]
        for region, low, high, missing in zip(regions, lows, highs, absent, strict=True):
            _clip_range_(low, high, find_threshold(region, recipe.clip, missing))
    return list(zip(lows, highs, strict=True))


def _clip_range_(low: torch.Tensor, high: torch.Tensor, threshold: torch.Tensor) -> None:
    # The threshold of equal weights is their magnitude but for rounding errors: they are not clipped.
    threshold = threshold.masked_fill_(low == high, torch.inf)
    torch.maximum(low, -threshold, out=low)
    torch.minimum(high, threshold, out=high)
    torch.maximum(low, high, out=high)


def _snap_asymmetric_(view: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> None:
    levels = 2**bits - 1
    step = (high - low) / levels
    # Equal weights are at level 0, whatever the step.
    step.masked_fill_(step == 0, 1.0)
    view.sub_(low).div_(step).round_().clamp_(0, levels).mul_(step).add_(low)


def _snap_symmetric_(view: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> None:
    levels = 2 ** (bits - 1) - 1
    largest = torch.maximum(low.abs(), high.abs())
    # Equal weights are one step from zero: x / 7 * 7 is not always x.
    step = torch.where(low == high, largest, largest / levels)
    step.masked_fill_(step == 0, 1.0)
    view.div_(step).round_().clamp_(-levels, levels).mul_(step)
