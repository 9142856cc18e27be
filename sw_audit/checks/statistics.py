"""Intervals by a paired block bootstrap over windows.

The tokens of one window depend on each other, so whole windows are the blocks that are drawn again. Arms that
are compared are measured on the same windows and share every draw, so what makes a window hard for both
arms cancels. Intervals are the percentiles of the drawn statistic (Efron 1979; Davison and Hinkley 1997,
section 5.3), in agreement with `scipy.stats.bootstrap(..., paired=True, method="percentile")`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from sw_audit.policy.policy import Policy

Floats: TypeAlias = NDArray[numpy.float64]

# Rows of resample weights in memory at once: 2,000 rows over 256 windows are 4 MB.
_CHUNK = 2_000
_BISECTIONS = 60
# exp() of more nats than this overflows; TokenLoss.perplexity draws the same line.
_MAXIMUM_NATS = 700


@dataclass(frozen=True)
class Bootstrap:
    """How often, how sure and from which seed.

    Attributes:
        resamples: Number of draws.
        confidence: Coverage of the two-sided interval.
        seed: The same seed and number of windows give the same draws, whatever is being compared.
    """

    resamples: int
    confidence: float
    seed: int

    @classmethod
    def of(cls, policy: Policy) -> Bootstrap:
        """Return what the policy asks for."""
        return cls(resamples=policy.resamples, confidence=policy.confidence, seed=policy.seed)


def resample_sums(columns: Floats, bootstrap: Bootstrap) -> Floats:
    """Draw windows with replacement and sum each column over them.

    Args:
        columns: float64 [windows, columns].
        bootstrap: How often and from which seed.

    Returns:
        float64 [resamples, columns]; equal columns give equal sums, to the last bit.
    """
    windows = len(columns)
    generator = numpy.random.default_rng(bootstrap.seed)
    parts = []
    for start in range(0, bootstrap.resamples, _CHUNK):
        draws = min(_CHUNK, bootstrap.resamples - start)
        drawn = generator.integers(windows, size=(draws, windows))
        drawn += windows * numpy.arange(draws)[:, None]
        counts = numpy.bincount(drawn.ravel(), minlength=draws * windows).reshape(draws, windows)
        # One product per column: a blocked matrix product may add two equal columns in different orders.
        weights = counts.astype(numpy.float64)
        parts.append(numpy.stack([weights @ numpy.ascontiguousarray(column) for column in columns.T], axis=1))
    return numpy.concatenate(parts)


def bound_mean_difference(
    nats: Sequence[float], against: Sequence[float], tokens: Sequence[int], bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Return the difference of two arms' nats per token, and the ends of its interval.

    The exponential of all three is the ratio of perplexities with its interval.

    Args:
        nats: Per window, the nats of one arm.
        against: Per window, the nats of the other arm on the same tokens.
        tokens: Per window, how many tokens were scored.
        bootstrap: How often, how sure, from which seed.
    """
    difference = numpy.asarray(nats, dtype=numpy.float64) - numpy.asarray(against, dtype=numpy.float64)
    return bound_ratio(difference, tokens, bootstrap)


def bound_perplexity_ratio(
    nats: Sequence[float], against: Sequence[float], tokens: Sequence[int], bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Return the ratio of two arms' perplexities, and the ends of its interval; each may be infinite.

    See `bound_mean_difference`.
    """
    logs = bound_mean_difference(nats, against, tokens, bootstrap)
    ratio, low, high = (math.inf if log > _MAXIMUM_NATS else math.exp(log) for log in logs)
    return ratio, low, high


def bound_ratio(
    over: Sequence[float] | Floats, under: Sequence[float] | Sequence[int] | Floats, bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Return the ratio of two sums over windows, and the ends of its interval.

    Args:
        over: Per window, what is summed above the line.
        under: Per window, what is summed below it; all of it positive, or its interval clear of zero.
        bootstrap: How often, how sure, from which seed.

    Returns:
        The ratio of the sums, then the lower and upper end. An end can be infinite or NaN if draws of
        `under` sum to zero.
    """
    columns = numpy.stack([numpy.asarray(over, dtype=float), numpy.asarray(under, dtype=float)], axis=1)
    sums = resample_sums(columns, bootstrap)
    tail = (1 - bootstrap.confidence) / 2
    with numpy.errstate(divide="ignore", invalid="ignore"):
        low, high = numpy.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail])
        observed = columns[:, 0].sum() / columns[:, 1].sum()
    return float(observed), float(low), float(high)


def bound_mean(values: Sequence[float] | Sequence[bool], bootstrap: Bootstrap) -> tuple[float, float, float]:
    """Return the mean of independent items, and the ends of its interval."""
    return bound_ratio(numpy.asarray(values, dtype=float), numpy.ones(len(values)), bootstrap)


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


def _bisect(low: float, high: float, before: Callable[[float], bool]) -> float:
    """Return where a condition that holds on the left ends."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2
