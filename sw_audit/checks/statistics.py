"""Confidence intervals, each of the kind that its figure asks for; `docs/intervals.md` has their coverage.

The tokens of one window depend on each other, so windows are the units. Arms that are compared are measured on the
same windows and are paired there, so what makes a window hard for both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy
from numpy.typing import NDArray
from scipy import special

Floats: TypeAlias = NDArray[numpy.float64]
Numbers: TypeAlias = Sequence[float] | Sequence[int] | Floats | NDArray[numpy.int64]

_BISECTIONS = 60
# exp() of more nats than this overflows; TokenLoss.perplexity draws the same line.
_MAXIMUM_NATS = 700
_FEW_ITEMS = 100
"""With fewer items the exact interval is taken: it is sure, and from here on hardly wider."""


def bound_mean_difference(
    nats: Sequence[float], against: Sequence[float], tokens: Sequence[int], confidence: float
) -> tuple[float, float, float]:
    """Return the difference of two arms' nats per token, and the ends of its interval.

    The exponential of all three is the ratio of perplexities with its interval.

    Args:
        nats: Per window, the nats of one arm.
        against: Per window, the nats of the other arm on the same tokens.
        tokens: Per window, how many tokens were scored.
        confidence: Coverage of the two-sided interval.
    """
    difference = numpy.asarray(nats, dtype=numpy.float64) - numpy.asarray(against, dtype=numpy.float64)
    return bound_ratio(difference, tokens, confidence)


def bound_perplexity_ratio(
    nats: Sequence[float], against: Sequence[float], tokens: Sequence[int], confidence: float
) -> tuple[float, float, float]:
    """Return the ratio of two arms' perplexities, and the ends of its interval; each may be infinite.

    See `bound_mean_difference`.
    """
    logs = bound_mean_difference(nats, against, tokens, confidence)
    ratio, low, high = (math.inf if log > _MAXIMUM_NATS else math.exp(log) for log in logs)
    return ratio, low, high


def bound_ratio(over: Numbers, under: Numbers, confidence: float) -> tuple[float, float, float]:
    """Return the ratio of two sums over windows, and the ends of its interval.

    The interval holds every ratio r at which a t test does not reject that over - r under has the mean zero
    (Fieller 1954, Journal of the Royal Statistical Society B 16, pages 175 to 185). Where `under` is the same in
    all windows that is Student's interval of the mean.

    Args:
        over: Per window, what is summed above the line.
        under: Per window, what is summed below it.
        confidence: Coverage of the two-sided interval.

    Returns:
        The ratio of the sums, then the lower and upper end. Both ends are NaN where the test bounds no ratio: with
        one window, or where the sum of `under` could as well be zero.
    """
    numerators, denominators = numpy.asarray(over, dtype=float), numpy.asarray(under, dtype=float)
    windows = len(denominators)
    with numpy.errstate(divide="ignore", invalid="ignore"):
        ratio = float(numerators.sum() / denominators.sum())
    if windows < 2 or not math.isfinite(ratio):
        return ratio, math.nan, math.nan
    # Of r = ratio + shift the test asks for residuals - shift denominators: no difference gives no width.
    residuals = numerators - ratio * denominators
    mean, scale = float(denominators.mean()), windows * (windows - 1)
    deviations = denominators - mean
    low, high = _solve_fieller(
        mean,
        float(residuals @ residuals) / scale,
        float(residuals @ deviations) / scale,
        float(deviations @ deviations) / scale,
        float(special.stdtrit(windows - 1, (1 + confidence) / 2)),
    )
    return ratio, ratio + low, ratio + high


def bound_positive_ratio(over: Numbers, under: Numbers, confidence: float) -> tuple[float, float, float]:
    """Return the ratio of two sums over windows that cannot be negative, and the ends of its interval.

    Student's interval of the logarithm, whose error is the ratio's own over the ratio (the delta method): where
    few windows hold most of a sum it misses less often than that of `bound_ratio`, and its ends stay positive.
    See `bound_ratio` for the arguments.
    """
    numerators, denominators = numpy.asarray(over, dtype=float), numpy.asarray(under, dtype=float)
    windows, total, divisor = len(denominators), float(numerators.sum()), float(denominators.sum())
    if total <= 0 or divisor <= 0 or windows < 2:
        return bound_ratio(over, under, confidence)
    ratio = total / divisor
    residuals = numerators - ratio * denominators
    error = math.sqrt(float(residuals @ residuals) * windows / (windows - 1)) / total
    reach = float(special.stdtrit(windows - 1, (1 + confidence) / 2)) * error
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach) if reach < _MAXIMUM_NATS else math.inf


def _solve_fieller(
    mean: float, residual: float, covariance: float, variance: float, quantile: float
) -> tuple[float, float]:
    """Return the shifts s where (s mean)^2 is quantile^2 times the variance of residuals - s denominators."""
    square = quantile**2
    clear = mean**2 - square * variance
    if clear <= 0:
        return math.nan, math.nan
    root = math.sqrt(square * (square * covariance**2 + clear * residual))
    return (-square * covariance - root) / clear, (-square * covariance + root) / clear


def tell_reach(windows: int, spread: float, confidence: float) -> float:
    """Return half the width of Student's interval of a mean, of so many windows with a standard deviation."""
    return float(special.stdtrit(windows - 1, (1 + confidence) / 2)) * spread / math.sqrt(windows)


def tell_narrowing(windows: int, confidence: float) -> float:
    """Return the normal quantile over Student's: how much narrower the same spread is of very many windows."""
    reach = (1 + confidence) / 2
    return NormalDist().inv_cdf(reach) / float(special.stdtrit(max(1, windows - 1), reach))


def bound_proportion(right: int, items: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of independent items.

    Of few items the exact one, which never covers less than it says (Clopper and Pearson 1934, Biometrika 26,
    pages 404 to 413); of more the score interval (Wilson 1927, JASA 22, pages 209 to 212).

    Args:
        right: Items that count.
        items: All items, at least one.
        confidence: Coverage of the two-sided interval.
    """
    if items >= _FEW_ITEMS:
        return _bound_by_score(right / items, items, confidence)
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(right, items - right + 1, tail)) if right else 0.0
    high = float(special.betaincinv(right + 1, items - right, 1 - tail)) if right < items else 1.0
    return low, high


def bound_token_share(hits: Numbers, tokens: Numbers, confidence: float) -> tuple[float, float, float]:
    """Return the share of tokens that count, and the ends of its interval.

    The score interval of so many independent tokens as would tell as much as these windows. It has a width also
    where all tokens count.

    Args:
        hits: Per window, how many tokens count.
        tokens: Per window, how many there are.
        confidence: Coverage of the two-sided interval.
    """
    share = sum(hits) / sum(tokens)
    return share, *_bound_by_score(share, _count_independent(hits, tokens, confidence), confidence)


def bound_token_quantile(
    values: Sequence[float] | Floats, tokens: Numbers, share: float, confidence: float
) -> tuple[float, float, float]:
    """Return a quantile over tokens, and the ends of its interval: two of the values themselves.

    How many of n independent values are below the true quantile is binomial, so the values at the binomial's own
    quantiles enclose it (David and Nagaraja 2003, Order Statistics, section 7.1); n is the number of independent
    tokens that would tell as much as these windows, as Woodruff 1952 (JASA 47, pages 635 to 646) has it.

    Args:
        values: Per token, window by window.
        tokens: Per window, how many of them are its.
        share: How many of all values are below the quantile, such as 0.99.
        confidence: Coverage of the two-sided interval.

    Returns:
        The quantile, then the lower and upper end; an end is infinite where too few values are beyond the quantile
        to enclose it.
    """
    array = numpy.asarray(values, dtype=float)
    observed = float(numpy.quantile(array, share))
    window_of = numpy.repeat(numpy.arange(len(tokens)), numpy.asarray(tokens, dtype=int))
    below = numpy.bincount(window_of, weights=array <= observed)
    independent = max(1, math.floor(_count_independent(below, tokens, confidence)))
    tail = (1 - confidence) / 2
    first, last = (_invert_binomial(chance, independent, share) for chance in (tail, 1 - tail))
    ordered = numpy.sort(array)
    # The ends among n independent values, at the same share of all values, to the outer side.
    lower, upper = math.floor(first / independent * len(array)), math.ceil((last + 1) / independent * len(array))
    low = float(ordered[lower - 1]) if lower >= 1 else -math.inf
    high = float(ordered[upper - 1]) if upper <= len(array) else math.inf
    return observed, low, high


def bound_median(values: Numbers, least: Numbers, most: Numbers, confidence: float) -> tuple[float, float, float]:
    """Return the median of independent items, and the ends of its interval, which are two of the items' own.

    How many of n items are below the true median is binomial with a chance of a half, so the items at that
    binomial's quantiles enclose it (David and Nagaraja 2003, Order Statistics, section 7.1). These are the medians
    that a sign test would not reject. It holds too where an item is only known to lie between two values.

    Args:
        values: Per item, its figure.
        least: Per item, what it is at least.
        most: Per item, what it is at most; may be infinite.
        confidence: Coverage of the two-sided interval.

    Returns:
        The median, then the lower and upper end; an end is infinite where there are too few items to enclose it.
    """
    if not len(values):
        return math.nan, -math.inf, math.inf
    rank = _invert_binomial((1 - confidence) / 2, len(values), 0.5)
    low = float(numpy.sort(numpy.asarray(least, dtype=float))[rank - 1]) if rank else -math.inf
    high = float(numpy.sort(numpy.asarray(most, dtype=float))[-rank]) if rank else math.inf
    return float(numpy.median(numpy.asarray(values, dtype=float))), low, high


def _invert_binomial(chance: float, items: int, share: float) -> int:
    """Return the fewest hits that are at least as probable as a chance to be not exceeded."""
    return max(0, math.ceil(float(special.bdtrik(chance, items, share)) - 1e-9))


def _count_independent(hits: Numbers, tokens: Numbers, confidence: float) -> float:
    """Return how many independent tokens would tell as much of a share as these windows do.

    That is share (1 - share) over the variance between windows, less the fewer windows that is known from, and no
    more than there are tokens (Korn and Graubard 1998, Survey Methodology 24, pages 193 to 201).
    """
    counted, sizes = numpy.asarray(hits, dtype=float), numpy.asarray(tokens, dtype=float)
    windows, items = len(sizes), float(sizes.sum())
    share = float(counted.sum()) / items
    residuals = counted - share * sizes
    variance = windows / (windows - 1) * float(residuals @ residuals) / items**2 if windows > 1 else math.inf
    if not variance:
        return items
    return min(items, tell_narrowing(windows, confidence) ** 2 * share * (1 - share) / variance)


def _bound_by_score(share: float, items: float, confidence: float) -> tuple[float, float]:
    """Return the shares at which a score test would just not reject that of so many items (Wilson 1927)."""
    square = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle, reach = (
        share + square / (2 * items),
        math.sqrt(square * (share * (1 - share) + square / (4 * items)) / items),
    )
    low, high = ((middle + way * reach) / (1 + square / items) for way in (-1, 1))
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def bound_lost_share(
    before: Sequence[bool], after: Sequence[bool], chance: float, confidence: float
) -> tuple[float, float, float]:
    """Return the share of the accuracy above guessing that is lost, and the ends of its interval.

    The share is (before - after) / (before - chance), of the same items. Its interval is Fieller's, after an item
    was added to each of the four cells (both right, lost, won, neither), in the manner of Agresti and Min 2005
    (Statistics in Medicine 24, pages 729 to 740): so it has a width also where all items agree.

    Args:
        before: Per item, whether it was right.
        after: Per item, whether it still is.
        chance: Accuracy of guessing.
        confidence: Coverage of the two-sided interval.

    Returns:
        The share, then the lower and upper end; NaN as of `bound_ratio`.
    """
    pairs = list(zip(before, after, strict=True))
    cells = numpy.array([[True, True], [True, False], [False, True], [False, False]])
    weights = numpy.array([pairs.count((first, second)) + 1 for first, second in cells.tolist()])
    lost, above = cells[:, 0].astype(float) - cells[:, 1], cells[:, 0] - chance
    items = weights.sum()
    mean = float(weights @ above) / items
    middle = float(weights @ lost) / items / mean
    residuals, deviations = lost - middle * above, above - mean
    low, high = _solve_fieller(
        mean,
        float(weights @ residuals**2) / items**2,
        float(weights @ (residuals * deviations)) / items**2,
        float(weights @ deviations**2) / items**2,
        float(special.stdtrit(len(pairs) - 1, (1 + confidence) / 2)) if len(pairs) > 1 else math.inf,
    )
    gained = sum(before) - chance * len(pairs)
    return (sum(before) - sum(after)) / gained if gained else math.nan, middle + low, middle + high


def bound_paired_difference(
    only_first: int, only_second: int, items: int, confidence: float
) -> tuple[float, float]:
    """Return the score interval for the difference of two paired proportions.

    The ends are the differences that a score test would just not reject (Tango 1998, Statistics in Medicine 17,
    pages 891 to 908): with z the normal quantile, those where (b - c - n d)^2 = z^2 (n (2 q + d (1 - d))), q being
    the likeliest chance of the second discordant cell under the difference d.

    Args:
        only_first: Items that only the first has right, b.
        only_second: Items that only the second has right, c.
        items: All items, n.
        confidence: Coverage of the two-sided interval.

    Returns:
        Lower and upper end of (b - c) / n.
    """
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    observed = (only_first - only_second) / items

    def score(difference: float) -> float:
        """Return the score statistic of a difference; it falls as that rises."""
        gap = only_first - only_second - items * difference
        linear = -only_first - only_second + (2 * items - only_first + only_second) * difference
        constant = -only_second * difference * (1 - difference)
        chance = (math.sqrt(max(linear**2 - 8 * items * constant, 0.0)) - linear) / (4 * items)
        variance = items * (2 * chance + difference * (1 - difference))
        return math.copysign(math.inf, gap) if variance <= 0 and gap else gap / math.sqrt(variance) if gap else 0.0

    low = _bisect(-1.0, observed, lambda one: score(one) > quantile)
    high = _bisect(observed, 1.0, lambda one: score(one) > -quantile)
    return low, high


def rate_direction(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided: whether changes go one way more than the other.

    Under the hypothesis each of the changed items is as likely to have changed either way (McNemar 1947,
    Psychometrika 12, pages 153 to 157).

    Args:
        only_first: Items that changed one way.
        only_second: Items that changed the other way.
    """
    fewer, changed = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(special.bdtr(fewer, changed, 0.5)))


def _bisect(low: float, high: float, before: Callable[[float], bool]) -> float:
    """Return where a condition that holds on the left ends."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2
