"""Axes that fit their figures: where a logarithmic axis begins and ends, and which ticks it has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        ticks: Where it has ticks, in between.
    """

    low: float
    high: float
    ticks: tuple[float, ...]


def fit_log_axis(values: Iterable[float], *, most: int = 6) -> LogAxis:
    """Fit a logarithmic axis to positive values, with a little room at both ends.

    Ticks are powers of ten over many decades, 1-2-5 steps over a few, and evenly spaced round numbers
    where the values are close together.

    Args:
        values: Positive numbers, one at least.
        most: Most ticks.
    """
    found = sorted(values)
    # Between one percent and a factor: over hundreds of decades a part of them would leave the range of floats.
    room = min(max((found[-1] / found[0]) ** 0.05, 1.01), 3.0)
    low, high = found[0] / room, found[-1] * room
    decades = math.log10(high) - math.log10(low)
    if decades > 2.5:
        ticks = _step_decades(low, high, most)
    elif decades > 0.8:
        ticks = _step_125(low, high)
    else:
        ticks = _step_evenly(low, high, most)
    return LogAxis(low, high, tuple(tick for tick in ticks if low <= tick <= high))


def _step_decades(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, math.ceil((last - first + 1) / most))
    return [10.0**power for power in range(first, last + 1, step)]


def _step_125(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [_tidy(mantissa * 10.0**power) for power in powers for mantissa in (1, 2, 5)]


def _step_evenly(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * mantissa for mantissa in (1, 2, 2.5, 5, 10) if power * mantissa >= rough)
    first = math.ceil(low / step)
    return [_tidy((first + index) * step) for index in range(most + 2)]


def _tidy(tick: float) -> float:
    """Take off the last digits, where products of decimals are not exact."""
    return float(f"{tick:.12g}")
