from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sw_audit.checks.statistics import (
    Bootstrap,
    bound_mean,
    bound_mean_difference,
    bound_paired_difference,
    bound_ratio,
    resample_sums,
)

BOOTSTRAP = Bootstrap(resamples=2000, confidence=0.95, seed=0)
losses = st.lists(st.floats(0, 1e4), min_size=2, max_size=40)
CELLS = st.integers(0, 30)


def draw_arms(seed: int, windows: int = 60) -> tuple[list[float], list[float], list[int]]:
    generator = numpy.random.default_rng(seed)
    tokens = generator.integers(20, 64, windows)
    base = tokens * (2 + 0.5 * generator.standard_normal(windows))
    arm = base + tokens * (0.1 + 0.05 * generator.standard_normal(windows))
    return arm.tolist(), base.tolist(), tokens.tolist()


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_loss_difference_agrees_with_scipy(confidence: float) -> None:
    arm, base, tokens = draw_arms(1)
    observed, low, high = bound_mean_difference(arm, base, tokens, Bootstrap(20_000, confidence, 0))
    oracle = stats.bootstrap(
        (numpy.array(arm), numpy.array(base), numpy.array(tokens)),
        lambda a, b, t, axis: (a.sum(axis) - b.sum(axis)) / t.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=confidence,
        method="percentile",
        rng=numpy.random.default_rng(5),
    )
    assert observed == pytest.approx((sum(arm) - sum(base)) / sum(tokens))
    # Both are draws: the ends of 20,000 are known to a few percent of the interval's width.
    width = high - low
    assert low == pytest.approx(oracle.confidence_interval.low, abs=0.04 * width)
    assert high == pytest.approx(oracle.confidence_interval.high, abs=0.04 * width)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    correct = [n % 3 == 0 for n in range(90)]
    _, low, high = bound_mean(correct, Bootstrap(20_000, 0.9, 3))
    oracle = stats.bootstrap(
        (numpy.array(correct, dtype=float),),
        numpy.mean,
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        rng=numpy.random.default_rng(4),
    )
    # Items are counted whole, so the ends may be one item apart.
    assert low == pytest.approx(oracle.confidence_interval.low, abs=1 / 90)
    assert high == pytest.approx(oracle.confidence_interval.high, abs=1 / 90)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = numpy.random.default_rng(8)
    bootstrap = Bootstrap(resamples=400, confidence=0.9, seed=0)
    covered = 0
    for _ in range(300):
        base = generator.normal(100, 20, 40)
        arm = base + generator.normal(5, 4, 40)
        _, low, high = bound_mean_difference(arm.tolist(), base.tolist(), [50] * 40, bootstrap)
        covered += low <= 5 / 50 <= high
    # Three standard deviations of 300 trials at 0.9 are 0.052; percentile intervals cover a little less.
    assert 0.83 <= covered / 300 <= 0.955


@given(nats=losses)
@settings(max_examples=50, deadline=None)
def test_identical_arms_differ_by_exactly_nothing(nats: list[float]) -> None:
    assert bound_mean_difference(nats, list(nats), [7] * len(nats), BOOTSTRAP) == (0.0, 0.0, 0.0)


def test_pairing_takes_out_what_windows_have_in_common() -> None:
    arm, base, tokens = draw_arms(2)
    _, low, high = bound_mean_difference(arm, base, tokens, BOOTSTRAP)
    shuffled = numpy.random.default_rng(0).permutation(arm).tolist()
    _, loose_low, loose_high = bound_mean_difference(shuffled, base, tokens, BOOTSTRAP)
    assert loose_high - loose_low > 5 * (high - low)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    arm, base, tokens = draw_arms(3)
    first = bound_mean_difference(arm, base, tokens, BOOTSTRAP)
    assert first == bound_mean_difference(arm, base, tokens, BOOTSTRAP)
    assert first != bound_mean_difference(arm, base, tokens, Bootstrap(2000, 0.95, 1))


def test_every_comparison_draws_the_same_windows() -> None:
    columns = numpy.arange(30, dtype=float)[:, None]
    alone = resample_sums(columns, BOOTSTRAP)
    beside = resample_sums(numpy.concatenate([columns**2, columns], axis=1), BOOTSTRAP)
    assert numpy.array_equal(alone[:, 0], beside[:, 1])


@pytest.mark.parametrize("resamples", [100, 2000, 2001, 4500])
def test_each_draw_holds_as_many_windows_as_there_are(resamples: int) -> None:
    sums = resample_sums(numpy.ones((17, 1)), Bootstrap(resamples, 0.95, 0))
    assert sums.shape == (resamples, 1)
    assert (sums == 17).all()


@given(scale=st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_scaling_what_is_summed_scales_the_interval(scale: float) -> None:
    arm, base, _ = draw_arms(4)
    plain = bound_ratio(arm, base, BOOTSTRAP)
    scaled = bound_ratio([scale * one for one in arm], base, BOOTSTRAP)
    assert scaled == pytest.approx([scale * one for one in plain])


def test_a_surer_interval_is_wider() -> None:
    arm, base, tokens = draw_arms(5)
    widths = []
    for confidence in (0.6, 0.9, 0.99):
        _, low, high = bound_mean_difference(arm, base, tokens, Bootstrap(2000, confidence, 0))
        widths.append(high - low)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_without_a_differing_item_the_ends_have_a_closed_form() -> None:
    square = NormalDist().inv_cdf(0.975) ** 2
    low, high = bound_paired_difference(0, 0, 100, 0.95)
    assert high == pytest.approx(square / (100 + square))
    assert low == pytest.approx(-high)


@given(CELLS, CELLS, CELLS, CELLS.filter(bool))
def test_the_interval_holds_the_figure_and_mirrors_when_the_two_are_swapped(
    both: int, lost: int, won: int, neither: int
) -> None:
    items = both + lost + won + neither
    low, high = bound_paired_difference(lost, won, items, 0.95)
    assert -1 <= low <= (lost - won) / items <= high <= 1
    swapped = bound_paired_difference(won, lost, items, 0.95)
    assert swapped == pytest.approx((-high, -low), abs=1e-9)


def test_of_two_models_that_differ_by_the_margin_it_says_so_at_the_promised_rate() -> None:
    """Every outcome of 40 items is weighed by its chance: the coverage is exact, not simulated."""
    items, lost, won = 40, 0.15, 0.05
    covered = 0.0
    for first, second in product(range(items + 1), repeat=2):
        if first + second > items:
            continue
        ways = math.comb(items, first) * math.comb(items - first, second)
        chance = ways * lost**first * won**second * (1 - lost - won) ** (items - first - second)
        if chance < 1e-7:
            continue
        low, high = bound_paired_difference(first, second, items, 0.95)
        covered += chance * (low <= lost - won <= high)
    assert 0.935 < covered < 0.975
