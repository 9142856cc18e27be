"""Round-to-nearest: to a grid of 2 ** bits levels and back (Yu et al. 2024, section 4).

The formulas are in `grid`, those of clipping in `clip`. float64 is computed in float64, everything
else in float32. Beside the result there are only pieces of a few MiB that stay in the processor's cache (on a GPU
of 64 MiB), and one bool per weight where some are kept. Flat runs take a copy of a matrix that is not
contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sw_audit.policy.recipe import PerRun, PerTensor, Recipe, SearchClip
from sw_audit.quantize.batches import Batch, Material, cut_batches
from sw_audit.quantize.clip import Range, clip_range, find_bounds, find_range, search_bounds
from sw_audit.quantize.grid import Grid

Kept = tuple[Tensor, Tensor]
"""Rows and columns of weights that are kept in full precision, int64 [weights] each."""


def round_to_nearest(
    weight: Tensor,
    recipe: Recipe,
    keep: Kept | None = None,
    importance: Tensor | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Round a matrix to a recipe's grid and back.

    Rounding the result again with the same recipe changes nothing but for rounding errors of the computation
    (without clipping; a clipped range is narrower, so its threshold moves).

    Args:
        weight: [rows, columns] in (out, in) order, floating, with any strides.
        recipe: Levels, granularity, symmetry, clipping.
        keep: Rows and columns, int64 [weights] each, of weights that are taken out before ranges are computed
            and put back bit for bit after (the paper's hold-out).
        importance: How much an error in each column counts, [columns], floating and not negative; for a clip that
            is searched on a corpus, and not looked at otherwise.
        out: What is written, of the weight's shape and dtype, with any strides; may be the weight itself.

    Returns:
        `out`, or a new contiguous tensor of the same shape and dtype. A group whose weights are all equal, or all
        kept, comes back exact.

    Raises:
        ValueError: If the weight is not a floating matrix, importance is needed and is missing or misshapen, or
            `out` is of another shape or dtype.
    """
    _check(weight, recipe, importance, out)
    with torch.no_grad():
        if out is None:
            out = torch.empty_like(weight, requires_grad=False, memory_format=torch.contiguous_format)
        _round_into(out.detach(), weight.detach(), recipe, keep, importance)
        return out


def _check(weight: Tensor, recipe: Recipe, importance: Tensor | None, out: Tensor | None) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"a floating matrix is wanted, not {weight.dtype} of shape {tuple(weight.shape)}")
    if recipe.weighs_columns:
        given_shape = None if importance is None else tuple(importance.shape)
        if given_shape != (weight.shape[1],):
            raise ValueError(f"{recipe} wants the importance of {weight.shape[1]} columns, not {given_shape}")
    if out is not None and (out.shape != weight.shape or out.dtype != weight.dtype):
        needed, given = (f"{tensor.dtype} of shape {tuple(tensor.shape)}" for tensor in (weight, out))
        raise ValueError(f"{needed} does not go into {given}")


def _round_into(
    target: Tensor, source: Tensor, recipe: Recipe, keep: Kept | None, importance: Tensor | None
) -> None:
    if not source.numel():
        return
    if isinstance(recipe.granularity, PerRun) and not (source.is_contiguous() and target.is_contiguous()):
        copy = source.clone(memory_format=torch.contiguous_format)
        _round_into(copy, copy, recipe, keep, importance)
        target.copy_(copy)
        return
    values = None if keep is None else source[keep]
    material = Material(source, target, _mark(source, keep), _spread(source, recipe, importance))
    clip, everywhere = recipe.clip, None
    if clip is not None and not isinstance(clip, SearchClip) and clip.scope == "tensor":
        (whole,) = cut_batches(material, PerTensor())
        everywhere = find_bounds(whole, clip)
    for batch in cut_batches(material, recipe.granularity):
        _round_batch(batch, recipe, everywhere)
    if keep is not None and values is not None:
        target[keep] = values


def _round_batch(batch: Batch, recipe: Recipe, everywhere: Range | None) -> None:
    data = find_range(batch)
    bounds = everywhere
    if isinstance(recipe.clip, SearchClip):
        bounds = search_bounds(batch, recipe, data)
    elif recipe.clip is not None and bounds is None:
        bounds = find_bounds(batch, recipe.clip)
        # The threshold of equal weights is their magnitude but for rounding errors: they are not clipped.
        equal = data.low == data.high
        bounds = Range(bounds.low.masked_fill(equal, -torch.inf), bounds.high.masked_fill(equal, torch.inf))
    if bounds is None:
        batch.change(Grid(recipe, *data, clipped=False).snap_)
    else:
        batch.change(Grid(recipe, *clip_range(data, bounds), clipped=True).snap_)


def _mark(source: Tensor, keep: Kept | None) -> Tensor | None:
    if keep is None or not keep[0].numel():
        return None
    kept = torch.zeros(source.shape, dtype=torch.bool, device=source.device)
    kept[keep] = True
    return kept


def _spread(source: Tensor, recipe: Recipe, importance: Tensor | None) -> Tensor | None:
    """Return each weight's importance where it matters: a view, but for flat runs, which cross rows."""
    if importance is None or not recipe.weighs_columns:
        return None
    spread = importance.to(source.device).expand(source.shape)
    return spread.contiguous() if isinstance(recipe.granularity, PerRun) else spread
