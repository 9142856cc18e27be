"""Round-to-nearest: to a grid of 2 ** bits levels and back (Yu et al. 2024, section 4).

The formulas are in `grid`, those of clipping in `clip` and `search`. float64 is computed in float64, everything
else in float32. Beside the result there are only pieces of a few MiB that stay in the processor's cache (on a GPU
of 64 MiB), and one bool per weight where some are held out. Flat runs take a copy of a matrix that is not
contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sw_audit.policy.clip import SearchClip
from sw_audit.policy.recipe import PerRun, PerTensor, Recipe
from sw_audit.quantize.batch import Batch, Material, cut_batches
from sw_audit.quantize.clip import Range, clip_range, find_bounds, find_range
from sw_audit.quantize.grid import Grid
from sw_audit.quantize.search import search_bounds

Holdout = tuple[Tensor, Tensor]


def round_to_nearest(
    weight: Tensor, recipe: Recipe, holdout: Holdout | None = None, importance: Tensor | None = None
) -> Tensor:
    """Round a matrix to a recipe's grid and back.

    Rounding the result again with the same recipe changes nothing but for rounding errors of the computation
    (without clipping; a clipped range is narrower, so its threshold moves).

    Args:
        weight: [rows, columns] in (out, in) order, floating, with any strides.
        recipe: Levels, granularity, symmetry, clipping.
        holdout: Rows and columns, int64 [weights] each, of weights that are taken out before ranges are computed
            and put back bit for bit after.
        importance: How much an error in each column counts, [columns], floating and not negative; for a clip that
            is searched on a corpus, and not looked at otherwise.

    Returns:
        A new contiguous tensor of the same shape and dtype. A group whose weights are all equal, or all held
        out, comes back exact.

    Raises:
        ValueError: If the weight is not a floating matrix, or importance is wanted and is missing or misshapen.
    """
    _check(weight, recipe, importance)
    with torch.no_grad():
        rounded = torch.empty_like(weight, requires_grad=False, memory_format=torch.contiguous_format)
        _round_into(rounded, weight.detach(), recipe, holdout, importance)
        return rounded


def round_to_nearest_(
    weight: Tensor, recipe: Recipe, holdout: Holdout | None = None, importance: Tensor | None = None
) -> Tensor:
    """Round a matrix in place; see `round_to_nearest`.

    Returns:
        The same tensor.

    Raises:
        ValueError: As there.
    """
    _check(weight, recipe, importance)
    with torch.no_grad():
        _round_into(weight.detach(), weight.detach(), recipe, holdout, importance)
        return weight


def round_into_(
    target: Tensor,
    weight: Tensor,
    recipe: Recipe,
    holdout: Holdout | None = None,
    importance: Tensor | None = None,
) -> Tensor:
    """Round a matrix into another tensor.

    Args:
        target: What is written: of the weight's shape and dtype, of any strides; may be the weight itself.
        weight: As for `round_to_nearest`.
        recipe: Likewise.
        holdout: Likewise.
        importance: Likewise.

    Returns:
        The target.

    Raises:
        ValueError: As there, or if the target is of another shape or dtype.
    """
    _check(weight, recipe, importance)
    if target.shape != weight.shape or target.dtype != weight.dtype:
        wanted, found = (f"{one.dtype} of shape {tuple(one.shape)}" for one in (weight, target))
        raise ValueError(f"{wanted} does not go into {found}")
    with torch.no_grad():
        _round_into(target.detach(), weight.detach(), recipe, holdout, importance)
        return target


def _check(weight: Tensor, recipe: Recipe, importance: Tensor | None) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"a floating matrix is wanted, not {weight.dtype} of shape {tuple(weight.shape)}")
    if isinstance(recipe.clip, SearchClip) and recipe.clip.on == "corpus":
        found = None if importance is None else tuple(importance.shape)
        if found != (weight.shape[1],):
            raise ValueError(f"{recipe} wants the importance of {weight.shape[1]} columns, not {found}")


def _round_into(
    target: Tensor, source: Tensor, recipe: Recipe, holdout: Holdout | None, importance: Tensor | None
) -> None:
    if not source.numel():
        return
    if isinstance(recipe.granularity, PerRun) and not (source.is_contiguous() and target.is_contiguous()):
        copy = source.clone(memory_format=torch.contiguous_format)
        _round_into(copy, copy, recipe, holdout, importance)
        target.copy_(copy)
        return
    kept = None if holdout is None else source[holdout]
    material = Material(source, target, _mark(source, holdout), _spread(source, recipe, importance))
    clip, everywhere = recipe.clip, None
    if clip is not None and not isinstance(clip, SearchClip) and clip.scope == "tensor":
        (whole,) = cut_batches(material, PerTensor())
        everywhere = find_bounds(whole, clip)
    for batch in cut_batches(material, recipe.granularity):
        _round_batch(batch, recipe, everywhere)
    if holdout is not None and kept is not None:
        target[holdout] = kept


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


def _mark(source: Tensor, holdout: Holdout | None) -> Tensor | None:
    """Return which weights are held out, as bools."""
    if holdout is None or not holdout[0].numel():
        return None
    absent = torch.zeros(source.shape, dtype=torch.bool, device=source.device)
    absent[holdout] = True
    return absent


def _spread(source: Tensor, recipe: Recipe, importance: Tensor | None) -> Tensor | None:
    """Return each weight's importance where it matters: a view, but for flat runs, which cross rows."""
    if importance is None or recipe.clip != SearchClip(on="corpus"):
        return None
    spread = importance.to(source.device).expand(source.shape)
    return spread.contiguous() if isinstance(recipe.granularity, PerRun) else spread
