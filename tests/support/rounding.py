"""Round-to-nearest a second time: in numpy, group by group in a loop, by the definitions and nothing else."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from sw_audit.policy.recipe import (
    AnyClip,
    IqrClip,
    PercentileClip,
    Recipe,
    SearchClip,
    ZScoreClip,
    find_levels,
    parse_recipe,
)

Array = NDArray[Any]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
GRANULARITIES = ("tensor", "row", "group4", "group7", "4x4", "3x5", "64x64", "1x7", "run7", "run16", "run1000")
CLIPS = ("z1.5", "z1-signed", "z1-tensor", "z1-signed-tensor", "p90", "p80-tensor", "iqr0.5", "iqr0.5-tensor")

integer_recipes = st.builds(
    lambda bits, granularity, symmetric: parse_recipe(f"int{bits}/{granularity}{symmetric}"),
    st.integers(2, 8),
    st.sampled_from(GRANULARITIES),
    st.sampled_from(["", "/symmetric"]),
)
normal_recipes = st.builds(
    lambda bits, granularity: parse_recipe(f"nf{bits}/{granularity}"),
    st.integers(3, 4),
    st.sampled_from(GRANULARITIES),
)
recipes = st.one_of(integer_recipes, normal_recipes)
shapes = st.tuples(st.integers(1, 17), st.integers(1, 23))


def draw_matrix(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Draw a normal matrix with one outlier."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    matrix.view(-1)[seed % matrix.numel()] *= 20
    return matrix.to(dtype)


def label_groups(shape: tuple[int, int], recipe: Recipe) -> Array:
    """Number each weight's scaling group, by the definition of the granularity."""
    rows, columns = numpy.indices(shape)
    kind = str(recipe.granularity)
    if kind == "tensor":
        return numpy.zeros(shape, dtype=int)
    if kind == "row":
        return rows
    if kind.startswith("group"):
        return rows * shape[1] + columns // int(kind[5:])
    if kind.startswith("run"):
        return (rows * shape[1] + columns) // int(kind[3:])
    height, width = (int(part) for part in kind.split("x"))
    return (rows // height) * (shape[1] + 1) + columns // width


def bound_by_hand(values: Array, clip: AnyClip) -> tuple[float, float]:
    """Return where numbers are clipped, by the definition of the clip."""
    magnitudes = numpy.abs(values)
    match clip:
        case ZScoreClip(z=z, of="magnitude"):
            threshold = magnitudes.mean() + z * magnitudes.std()
            return -threshold, threshold
        case ZScoreClip(z=z):
            return values.mean() - z * values.std(), values.mean() + z * values.std()
        case PercentileClip(percent=percent):
            threshold = numpy.percentile(magnitudes, percent, method="inverted_cdf")
            return -threshold, threshold
        case IqrClip(factor=factor):
            lower, upper = numpy.percentile(values, [25, 75], method="inverted_cdf")
            return lower - factor * (upper - lower), upper + factor * (upper - lower)
    raise AssertionError(clip)


def snap_by_hand(group: Array, low: float, high: float, recipe: Recipe) -> Array:
    """Round numbers that lie between two ends to the recipe's grid, by the formulas of `quantize/grid.py`."""
    if recipe.levels == "normal-float":
        levels = numpy.array(find_levels(recipe.bits))
        scale = max(abs(low), abs(high)) or 1.0
        # The first of equal distances is the lower level.
        nearest = numpy.abs(group[:, None] / scale - levels).argmin(1)
        return levels[nearest] * scale
    if recipe.symmetric:
        count = 2 ** (recipe.bits - 1) - 1
        step = max(abs(low), abs(high)) / count or 1.0
        return numpy.clip(numpy.round(group / step), -count, count) * step
    count = 2**recipe.bits - 1
    step = (high - low) / count or 1.0
    return numpy.clip(numpy.round((group - low) / step), 0, count) * step + low


def search_by_hand(group: Array, importance: Array, recipe: Recipe) -> tuple[float, float]:
    """Return the bounds that make the smallest error, by trying them from the widest to the narrowest."""
    largest = numpy.abs(group).max()
    best = (numpy.inf, 0.0)
    for step in range(37):
        threshold = largest * 2 ** (-step / 5)
        clipped = numpy.clip(group, -threshold, threshold)
        rounded = snap_by_hand(clipped, clipped.min(), clipped.max(), recipe)
        best = min(best, ((importance * (rounded - group) ** 2).sum(), threshold), key=lambda pair: pair[0])
    return -best[1], best[1]


def round_by_hand(
    weight: Array, recipe: Recipe, held: Array | None = None, importance: Array | None = None
) -> Array:
    """Round group by group in a loop, in float64."""
    held = numpy.zeros(weight.shape, dtype=bool) if held is None else held
    counts = numpy.broadcast_to(numpy.ones(weight.shape[1]) if importance is None else importance, weight.shape)
    result = weight.astype(numpy.float64).copy()
    labels = label_groups((weight.shape[0], weight.shape[1]), recipe)
    clip = recipe.clip
    for label in numpy.unique(labels):
        inside = (labels == label) & ~held
        group = weight[inside].astype(numpy.float64)
        if not len(group):
            continue
        bounds = (-numpy.inf, numpy.inf)
        if isinstance(clip, SearchClip):
            bounds = search_by_hand(group, counts[inside], recipe)
        elif clip is not None and clip.scope == "tensor":
            bounds = bound_by_hand(weight[~held].astype(numpy.float64), clip)
        elif clip is not None and group.min() < group.max():
            bounds = bound_by_hand(group, clip)
        clipped = numpy.clip(group, *bounds)
        result[inside] = snap_by_hand(clipped, clipped.min(), clipped.max(), recipe)
    return result


def measure_step(weight: torch.Tensor, recipe: Recipe) -> Array:
    """Return the widest distance between neighbouring grid points at each weight, without clipping."""
    values, labels = weight.double().numpy(), label_groups((weight.shape[0], weight.shape[1]), recipe)
    steps = numpy.zeros(weight.shape)
    for label in numpy.unique(labels):
        group = values[labels == label]
        largest = numpy.abs(group).max()
        if recipe.levels == "normal-float":
            steps[labels == label] = largest * numpy.diff(find_levels(recipe.bits)).max()
        elif recipe.symmetric:
            steps[labels == label] = largest / (2 ** (recipe.bits - 1) - 1)
        else:
            steps[labels == label] = (group.max() - group.min()) / (2**recipe.bits - 1)
    return steps
