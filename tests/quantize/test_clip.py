"""Clips and searched clips against a loop over groups, and what they are for."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounding import (
    CLIPS,
    GRANULARITIES,
    Array,
    bound_by_hand,
    draw_matrix,
    label_groups,
    recipes,
    round_by_hand,
    shapes,
)

from sw_audit.policy.recipe import Recipe, SearchClip, find_levels, parse_recipe
from sw_audit.quantize.rtn import round_to_nearest

KINDS = ("int4/{}/", "int3/{}/symmetric/", "nf4/{}/")
HELD = (torch.tensor([0, 3, 3, 12]), torch.tensor([0, 4, 5, 18]))


def mark(shape: torch.Size) -> Array:
    held = numpy.zeros(tuple(shape), dtype=bool)
    held[HELD] = True
    return held


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_equals_a_loop_over_groups_with_and_without_holdout(
    granularity: str, kind: str, clip: str
) -> None:
    weight = draw_matrix((13, 19), 5, torch.float64)
    recipe = parse_recipe(kind.format(granularity) + clip)
    plain = round_to_nearest(weight, recipe).numpy()
    assert numpy.allclose(plain, round_by_hand(weight.numpy(), recipe), rtol=0, atol=1e-12)
    kept = round_to_nearest(weight, recipe, HELD).numpy()
    assert numpy.allclose(kept, round_by_hand(weight.numpy(), recipe, mark(weight.shape)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", [False, True])
def test_searching_equals_a_loop_over_groups_and_factors(granularity: str, kind: str, hold: bool) -> None:
    weight = draw_matrix((13, 19), 6, torch.float64)
    importance = torch.rand(19, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    held = mark(weight.shape) if hold else None
    for clip, counts in (("search-weights", None), ("search", importance)):
        recipe = parse_recipe(kind.format(granularity) + clip)
        rounded = round_to_nearest(weight, recipe, HELD if hold else None, counts).numpy()
        by_hand = round_by_hand(weight.numpy(), recipe, held, None if counts is None else counts.numpy())
        assert numpy.allclose(rounded, by_hand, rtol=0, atol=1e-12)


def test_clipping_moves_only_what_is_beyond_the_threshold() -> None:
    weight = torch.ones(1, 100, dtype=torch.float64)
    weight[0, ::2] = -1
    weight[0, 7] = 50.0
    # mean|w| = 1.49, std|w| = 4.8755: the threshold of z = 2 is 11.2409.
    rounded = round_to_nearest(weight, parse_recipe("int8/tensor/z2"))
    threshold = 1.49 + 2 * math.sqrt((99 * 1 + 2500) / 100 - 1.49**2)
    assert rounded[0, 7].item() == pytest.approx(threshold)
    assert (rounded[0, :7] - weight[0, :7]).abs().max() < (threshold + 1) / 255


@pytest.mark.parametrize(
    ("clip", "low", "high"),
    [
        # Magnitudes 1 2 3 4 6 7 7 8 9 10: half of them are not larger than 6, and all not larger than 10.
        ("p50", -6.0, 6.0),
        ("p95", -10.0, 9.0),
        # The third smallest of ten, -7, is the lower quartile, the eighth, 6, the upper: 13 apart.
        ("iqr0.1", -8.3, 7.3),
        # Their mean is -0.5, the mean of their squares 40.9; the mean of their magnitudes is 5.7.
        ("z1-signed", -0.5 - math.sqrt(40.65), -0.5 + math.sqrt(40.65)),
        ("z1", -5.7 - math.sqrt(40.9 - 5.7**2), 5.7 + math.sqrt(40.9 - 5.7**2)),
    ],
)
def test_bounds_worked_by_hand(clip: str, low: float, high: float) -> None:
    weight = torch.tensor([[-10.0, -8.0, -7.0, -4.0, -2.0, 1.0, 3.0, 6.0, 7.0, 9.0]], dtype=torch.float64)
    rounded = round_to_nearest(weight, parse_recipe(f"int8/row/{clip}"))
    assert (rounded.min().item(), rounded.max().item()) == (pytest.approx(low), pytest.approx(high))


def test_a_percentile_counts_whole_weights_and_not_rounding_errors() -> None:
    # 1000 * 0.997 is not 997 in binary; the percentile is the 997th number nevertheless.
    weight = torch.arange(1.0, 1001.0, dtype=torch.float64)[None]
    for percent, last in ((99.7, 997.0), (99.9, 999.0), (0.1, 1.0), (50, 500.0), (99.71, 998.0)):
        assert round_to_nearest(weight, parse_recipe(f"int8/row/p{percent}")).max().item() == last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_percentiles_of_other_dtypes_are_exact_too(dtype: torch.dtype) -> None:
    weight = draw_matrix((7, 501), 9, dtype)
    rounded = round_to_nearest(weight, parse_recipe("int8/row/p99/symmetric"))
    magnitudes = weight.abs().float().numpy()
    expected = numpy.percentile(magnitudes, 99, axis=1, method="inverted_cdf")
    assert rounded.abs().amax(1).float().tolist() == pytest.approx(expected.tolist(), rel=1e-2)


def test_a_threshold_of_the_whole_tensor_reaches_groups_that_lie_beyond_it() -> None:
    # Nine of ten weights are 1 at most: the group of 50 and 60 is beyond the threshold altogether.
    weight = torch.ones(1, 20)
    weight[0, :2] = torch.tensor([50.0, 60.0])
    rounded = round_to_nearest(weight, parse_recipe("int4/group2/p90-tensor"))
    assert torch.equal(rounded, torch.ones(1, 20))


def test_the_two_readings_of_z_are_different_where_weights_are_not_centred() -> None:
    # All are positive, so w and |w| have one mean, 5.5, and deviation; only the bound of w is one from below too.
    weight = torch.tensor([[4.0, 7.0] * 8 + [3.0, 8.0]], dtype=torch.float64)
    deviation = math.sqrt((16 * 1.5**2 + 2 * 2.5**2) / 18)
    released, described = (round_to_nearest(weight, parse_recipe(f"int8/row/{z}")) for z in ("z1", "z1-signed"))
    assert (released.min().item(), released.max().item()) == (3.0, pytest.approx(5.5 + deviation))
    assert (described.min().item(), described.max().item()) == (
        pytest.approx(5.5 - deviation),
        pytest.approx(5.5 + deviation),
    )


@given(shape=shapes, recipe=recipes, clip=st.sampled_from(CLIPS), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_what_lies_inside_of_the_bounds_moves_by_half_a_step_at_most(
    shape: tuple[int, int], recipe: Recipe, clip: str, seed: int
) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    clipped = parse_recipe(f"{recipe}/{clip}")
    error = (round_to_nearest(weight, clipped) - weight).abs().numpy()
    values, labels = weight.numpy(), label_groups(shape, recipe)
    assert clipped.clip is not None
    assert not isinstance(clipped.clip, SearchClip)
    for label in numpy.unique(labels):
        group = values[labels == label]
        low, high = bound_by_hand(values if clip.endswith("tensor") else group, clipped.clip)
        ends = numpy.clip([group.min(), group.max()], low, high)
        span = numpy.abs(ends).max() if recipe.symmetric else ends[1] - ends[0]
        step = span / (2 ** (recipe.bits - recipe.symmetric) - 1)
        if recipe.levels == "normal-float":
            step = span * numpy.diff(find_levels(recipe.bits)).max()
        inside = (group >= low) & (group <= high)
        assert (error[labels == label][inside] <= step / 2 + 1e-9).all()


@given(shape=shapes, recipe=recipes, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_searching_is_never_worse_than_not_clipping(shape: tuple[int, int], recipe: Recipe, seed: int) -> None:
    weight = draw_matrix(shape, seed, torch.float64)
    importance = torch.rand(shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def add_errors(rounded: torch.Tensor, counts: torch.Tensor) -> float:
        return float(((rounded - weight) ** 2 * counts).sum())

    plain = round_to_nearest(weight, recipe)
    for clip, counts in (("search-weights", torch.ones(shape[1])), ("search", importance)):
        searched = round_to_nearest(weight, parse_recipe(f"{recipe}/{clip}"), None, importance)
        assert add_errors(searched, counts) <= add_errors(plain, counts) + 1e-12


@given(shape=shapes, granularity=st.sampled_from(GRANULARITIES), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_more_bits_never_make_a_searched_sum_of_squares_worse(
    shape: tuple[int, int], granularity: str, seed: int
) -> None:
    # Whatever bounds four bits choose, eight bits may choose them too, and their grid holds that of four.
    weight = draw_matrix(shape, seed, torch.float64)
    errors = [
        float(
            (round_to_nearest(weight, parse_recipe(f"int{bits}/{granularity}/search-weights")) - weight)
            .square()
            .sum()
        )
        for bits in (2, 4, 8)
    ]
    assert errors[2] <= errors[1] + 1e-12
    assert errors[1] <= errors[0] + 1e-12


def test_searching_on_a_corpus_wants_the_importance_of_every_column() -> None:
    weight, recipe = draw_matrix((4, 6), 0), parse_recipe("int4/row/search")
    for importance in (None, torch.ones(4)):
        with pytest.raises(ValueError, match="wants the importance of 6 columns, not"):
            round_to_nearest(weight, recipe, None, importance)


def test_a_column_that_does_not_count_does_not_widen_the_range() -> None:
    weight = torch.linspace(-1, 1, 64).repeat(4, 1)
    weight[:, 5] = 40.0
    importance = torch.ones(64)
    importance[5] = 0.0
    rounded = round_to_nearest(weight, parse_recipe("int4/row/search"), None, importance)
    others = torch.arange(64) != 5
    assert (rounded - weight)[:, others].abs().max() < 0.2
    assert rounded[:, 5].max() < 1.5


def test_a_search_reaches_down_to_one_part_in_147_and_no_further() -> None:
    # The outlier does not count, the others end at a 200th of it, so the narrowest of all bounds is best.
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64).repeat(2, 1)
    weight[:, 5] = 200.0
    importance = torch.ones(64)
    importance[5] = 0.0
    rounded = round_to_nearest(weight, parse_recipe("int4/row/search"), None, importance)
    assert rounded[:, 5].tolist() == pytest.approx([200 * 2 ** (-36 / 5)] * 2)


def test_of_equal_errors_the_widest_bounds_win() -> None:
    weight = draw_matrix((5, 30), 2)
    rounded = round_to_nearest(weight, parse_recipe("int4/row/search"), None, torch.zeros(30))
    assert torch.equal(rounded, round_to_nearest(weight, parse_recipe("int4/row")))


@pytest.mark.parametrize("clip", ["z0.01", "z0.01-signed"])
def test_many_equal_weights_stay_exact_though_their_mean_is_not(clip: str) -> None:
    weight = torch.full((3, 100_003), 0.1)
    assert torch.equal(round_to_nearest(weight, parse_recipe(f"int4/row/{clip}")), weight)
