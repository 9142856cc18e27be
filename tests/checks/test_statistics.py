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
    bound_lost_share,
    bound_mean_difference,
    bound_median,
    bound_paired_difference,
    bound_perplexity_ratio,
    bound_positive_ratio,
    bound_proportion,
    bound_ratio,
    bound_token_quantile,
    bound_token_share,
)

losses = st.lists(st.floats(0, 1e4), min_size=2, max_size=40)
CELLS = st.integers(0, 30)


def draw_arms(seed: int, windows: int = 60) -> tuple[list[float], list[float], list[int]]:
    generator = numpy.random.default_rng(seed)
    tokens = generator.integers(20, 64, windows)
    base = tokens * (2 + 0.5 * generator.standard_normal(windows))
    arm = base + tokens * (0.1 + 0.05 * generator.standard_normal(windows))
    return arm.tolist(), base.tolist(), tokens.tolist()


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.992])
def test_over_windows_of_one_length_the_interval_is_students(confidence: float) -> None:
    arm, base, _ = draw_arms(1, windows=7)
    observed, low, high = bound_mean_difference(arm, base, [50] * 7, confidence)
    oracle = stats.ttest_rel(arm, base).confidence_interval(confidence)
    assert observed == pytest.approx((sum(arm) - sum(base)) / 350)
    assert (low, high) == pytest.approx((oracle.low / 50, oracle.high / 50), rel=1e-12)


def test_over_windows_of_any_length_the_ends_are_where_a_t_test_just_does_not_reject() -> None:
    arm, base, tokens = (numpy.array(part) for part in draw_arms(2, windows=9))
    observed, low, high = bound_mean_difference(arm.tolist(), base.tolist(), tokens.tolist(), 0.9)
    assert low < observed < high
    for end in (low, high):
        assert stats.ttest_1samp(arm - base - end * tokens, 0).pvalue == pytest.approx(0.1)


def test_a_ratio_that_cannot_be_negative_has_students_interval_of_its_logarithm() -> None:
    sums = [0.1, 0.4, 0.2, 3.1]
    ratio, low, high = bound_positive_ratio(sums, [50] * 4, 0.95)
    reach = stats.t.ppf(0.975, 3) * stats.sem(sums) / numpy.mean(sums)
    assert (ratio, low, high) == pytest.approx(tuple(0.019 * math.exp(part) for part in (0, -reach, reach)))
    assert bound_positive_ratio([0.0] * 4, [50] * 4, 0.95) == (0.0, 0.0, 0.0)


def test_where_what_is_below_could_be_zero_nothing_is_bounded() -> None:
    assert stats.ttest_1samp([1.0, -1.2, 0.5, 0.1], 0).pvalue > 0.05
    _, low, high = bound_ratio([1.0, 2.0, 3.0, 4.0], [1.0, -1.2, 0.5, 0.1], 0.95)
    assert math.isnan(low)
    assert math.isnan(high)


def test_one_window_bounds_nothing_and_a_sum_of_zero_has_no_ratio() -> None:
    assert bound_ratio([3.0], [2.0], 0.95) == pytest.approx((1.5, math.nan, math.nan), nan_ok=True)
    assert all(map(math.isnan, bound_ratio([0.0, 0.0], [1.0, -1.0], 0.95)))


def test_perplexities_beyond_all_numbers_are_infinite() -> None:
    assert bound_perplexity_ratio([9e4, 9.1e4], [0.0, 0.0], [10, 10], 0.95) == (math.inf,) * 3


@given(nats=losses)
@settings(max_examples=50, deadline=None)
def test_identical_arms_differ_by_exactly_nothing(nats: list[float]) -> None:
    assert bound_mean_difference(nats, list(nats), [7] * len(nats), 0.95) == (0.0, 0.0, 0.0)


def test_pairing_takes_out_what_windows_have_in_common() -> None:
    arm, base, tokens = draw_arms(2)
    _, low, high = bound_mean_difference(arm, base, tokens, 0.95)
    shuffled = numpy.random.default_rng(0).permutation(arm).tolist()
    _, loose_low, loose_high = bound_mean_difference(shuffled, base, tokens, 0.95)
    assert loose_high - loose_low > 5 * (high - low)


@given(scale=st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_scaling_what_is_summed_scales_the_interval(scale: float) -> None:
    arm, base, _ = draw_arms(4)
    plain = bound_ratio(arm, base, 0.95)
    scaled = bound_ratio([scale * one for one in arm], base, 0.95)
    assert scaled == pytest.approx([scale * one for one in plain])


def test_a_surer_interval_is_wider() -> None:
    arm, base, tokens = draw_arms(5)
    widths = []
    for confidence in (0.6, 0.9, 0.99):
        _, low, high = bound_mean_difference(arm, base, tokens, confidence)
        widths.append(high - low)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@pytest.mark.parametrize(("items", "method"), [(8, "exact"), (99, "exact"), (100, "wilson"), (1000, "wilson")])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_items_has_the_exact_interval_while_they_are_few_and_wilsons_after(
    items: int, method: str, share: float
) -> None:
    right = round(share * items)
    oracle = stats.binomtest(right, items).proportion_ci(0.95, method)
    assert bound_proportion(right, items, 0.95) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_of_independent_tokens_in_many_windows_the_share_has_wilsons_interval() -> None:
    hits = numpy.random.default_rng(1).binomial(50, 0.8, 4000).tolist()
    share, low, high = bound_token_share(hits, [50] * 4000, 0.95)
    oracle = stats.binomtest(sum(hits), 200_000).proportion_ci(0.95, "wilson")
    assert share == sum(hits) / 200_000
    # The spread between 4,000 windows is known to two percent.
    assert high - low == pytest.approx(oracle.high - oracle.low, rel=0.05)


def test_tokens_that_say_the_same_throughout_a_window_count_as_one() -> None:
    # Half of 40 windows agree everywhere, half nowhere: 40 things are known of, and not 2,000.
    _, low, high = bound_token_share([50, 0] * 20, [50] * 40, 0.95)
    oracle = stats.binomtest(20, 40).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.01)


def test_windows_that_all_agree_leave_room_for_one_that_does_not() -> None:
    share, low, high = bound_token_share([64] * 4, [64] * 4, 0.95)
    square = NormalDist().inv_cdf(0.975) ** 2
    assert (share, high) == (1.0, 1.0)
    assert low == pytest.approx(256 / (256 + square))


def test_a_quantile_is_enclosed_by_the_values_that_the_binomial_names() -> None:
    # 1,000 windows of one token: the spread between them is that of independent tokens.
    values = numpy.random.default_rng(2).permutation(1000).astype(float)
    observed, low, high = bound_token_quantile(values.tolist(), [1] * 1000, 0.9, 0.95)
    assert observed == pytest.approx(899.1)
    # The values are their own ranks from 0; t for z costs less than one rank.
    assert low == pytest.approx(stats.binom.ppf(0.025, 1000, 0.9) - 1, abs=2)
    assert high == pytest.approx(stats.binom.ppf(0.975, 1000, 0.9), abs=2)


def test_beyond_the_largest_value_a_quantile_is_unbounded() -> None:
    # 0.99^n is the chance that none of n is above the 99th percentile.
    values = list(map(float, range(200)))
    observed, low, high = bound_token_quantile(values, [1] * 200, 0.99, 0.95)
    assert low < observed < high == math.inf


def test_the_lost_share_of_what_is_above_guessing_has_a_width_also_where_all_items_agree() -> None:
    all_kept = bound_lost_share([True] * 8, [True] * 8, 0.25, 0.95)
    assert all_kept[0] == 0.0
    assert all_kept[1] < -0.1
    assert all_kept[2] > 0.1
    observed, low, high = bound_lost_share([True] * 90 + [False] * 10, [True] * 25 + [False] * 75, 0.25, 0.95)
    assert observed == pytest.approx(1.0)
    assert 0.8 < low < observed < high < 1.2


def test_of_many_items_the_lost_share_has_fiellers_interval() -> None:
    generator = numpy.random.default_rng(6)
    before, still = generator.random(20_000) < 0.8, generator.random(20_000) < 0.5
    lost, above = before.astype(float) - still, before - 0.25
    plain = bound_ratio(lost, above, 0.95)
    assert bound_lost_share(before.tolist(), still.tolist(), 0.25, 0.95) == pytest.approx(plain, rel=0.01)


def test_a_model_that_only_guesses_has_nothing_to_lose() -> None:
    _, low, high = bound_lost_share([True, False, False, False] * 5, [False] * 20, 0.25, 0.95)
    assert math.isnan(low)
    assert math.isnan(high)


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


def test_the_interval_of_a_median_ends_at_the_items_that_a_sign_test_would_not_reject() -> None:
    # Of 12 fair coins at most 2 heads have a chance of 79/4096, at most 3 of 299/4096: the third from either end.
    items = [float(item) for item in range(1, 13)]
    assert bound_median(items, items, items, 0.95) == (6.5, 3.0, 10.0)
    # Of 5, none has a chance of 1/32: there is no end.
    assert bound_median(items[:5], items[:5], items[:5], 0.95) == (3.0, -math.inf, math.inf)
