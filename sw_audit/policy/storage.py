"""What a recipe costs in storage, and what holding weights out can and cannot change under it: arithmetic only."""

from __future__ import annotations

import math
from typing import Literal

from sw_audit.policy.recipe import PerBlock, PerGroup, PerRow, PerRun, Recipe

SCALE_BITS = 16
ZERO_POINT_BITS = 16
HELD_VALUE_BITS = 16

Survivors = Literal["all", "largest", "ends", "none"]


def count_groups(recipe: Recipe, shape: tuple[int, int]) -> int:
    """Return into how many scaling groups a recipe cuts a matrix of (out, in); ragged last ones count as whole."""
    rows, columns = shape
    if not rows * columns:
        return 0
    match recipe.granularity:
        case PerRow():
            return rows
        case PerGroup(size=size):
            return rows * math.ceil(columns / size)
        case PerBlock(rows=height, columns=width):
            return math.ceil(rows / height) * math.ceil(columns / width)
        case PerRun(size=size):
            return math.ceil(rows * columns / size)
        case _:
            return 1


def count_bits(recipe: Recipe, shape: tuple[int, int], held: int = 0) -> float:
    """Return how many bits a matrix takes when it is stored under a recipe.

    Per weight its code, the held-out ones' included, since a dense matrix of codes has no gaps. Per scaling group
    a scale of 16 bits and, where the grid is an asymmetric one, its lower end of 16 bits. Per held-out weight its
    value of 16 bits and its place in the flattened matrix, in as many whole bits as the last place needs. What a
    clip learned is in the scale. The code book of normal floats is one for all matrices and not counted. Arms
    compute with float32 scales; that a file would round them to 16 bits is not simulated.

    Args:
        recipe: How it is rounded.
        shape: (out, in).
        held: How many of its weights are held out.

    Returns:
        Bits; divide the sum over matrices by the sum of their weights, not single ratios, for bits per weight.
    """
    weights = shape[0] * shape[1]
    group = SCALE_BITS + (0 if recipe.symmetric else ZERO_POINT_BITS)
    place = max(weights - 1, 0).bit_length()
    return float(recipe.bits * weights + group * count_groups(recipe, shape) + held * (HELD_VALUE_BITS + place))


def find_survivors(recipe: Recipe) -> Survivors:
    """Tell which weights plain rounding gives back as they were, whatever the weights are.

    Where a weight survives plain rounding, writing its original value back after rounding changes nothing.
    Hold-out in that weak sense, with ranges that were taken over the weight all the same, is a no-op by
    construction for the largest weight of a group, and that is what a super weight is. Hold-out as it is done here
    is not: the weight is out of the range too, so its neighbours are rounded otherwise (but in groups of one).

    Returns:
        `all`: every group is one weight. `largest`: of each group the weights of largest magnitude (the outermost
        levels of symmetric integers and of normal floats are at plus and minus that). `ends`: of each group the
        smallest and the largest weight. `none`: a clip or a search may cut off any weight. Survival is but for
        rounding errors of the computation.
    """
    if count_groups(recipe, (1, 2)) == 2 and count_groups(recipe, (2, 1)) == 2:
        return "all"
    if recipe.clip is not None:
        return "none"
    return "largest" if recipe.symmetric else "ends"


def explain_holdout(recipe: Recipe) -> str:
    """Say in a sentence what holding out the largest weight of a scaling group changes under a recipe."""
    match find_survivors(recipe):
        case "all":
            return "Every weight has a scale of its own and stays as it is: holding any out changes nothing."
        case "none":
            return (
                "A weight that is held out keeps its value, which clipping may cut off, and has no say in where "
                "its group is clipped; its neighbours change with that."
            )
        case survivors:
            end = "the end" if survivors == "largest" else "an end"
            return (
                f"The largest weight of a group is {end} of its range, so it keeps its value, held out or not; "
                "held out, it does not widen the range, and its neighbours are rounded in smaller steps."
            )
