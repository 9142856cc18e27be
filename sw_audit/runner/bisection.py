"""Bisection of a series: where a check turns from pass to fail, in few audits, with undecided ones passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from sw_audit.record.verdict import Status

_DECIDED = (Status.PASS, Status.FAIL)


@dataclass(frozen=True)
class Turn:
    """What a bisection found.

    Attributes:
        outcome: `turned` from pass to fail; `alike`, both ends pass or both fail; `backwards`, from fail to pass;
            `undecided`, fewer than two places could be decided.
        low: The place of the first end that could be decided, or, where it turned, of the last one known to pass.
        high: Likewise the last end, or the first one known to fail; `None` if no place could be decided.
    """

    outcome: Literal["turned", "alike", "backwards", "undecided"]
    low: int | None
    high: int | None

    @property
    def candidates(self) -> range:
        """The places that may be the first to fail: one, or more where those before it could not be decided."""
        if self.outcome != "turned" or self.low is None or self.high is None:
            return range(0)
        return range(self.low + 1, self.high + 1)


def find_turn(count: int, judge: Callable[[int], Status]) -> Turn:
    """Find where a series turns from pass to fail, if it turns once.

    The two ends are judged first, then the middle of what is left between a pass and a fail. Beside a place that
    is neither, the nearest ones are tried, as `git bisect skip` does.

    Args:
        count: Length of the series.
        judge: Judges a place from 0 on; it is called once for each.
    """
    known: dict[int, Status] = {}

    def is_decided(place: int) -> bool:
        if place not in known:
            known[place] = judge(place)
        return known[place] in _DECIDED

    def find_decided(places: Iterable[int]) -> int | None:
        return next((place for place in places if is_decided(place)), None)

    is_decided(0)
    is_decided(count - 1)
    low, high = find_decided(range(count)), find_decided(reversed(range(count)))
    if low is None or high is None or low == high:
        return Turn("undecided", low, high)
    if known[low] is known[high]:
        return Turn("alike", low, high)
    if known[low] is Status.FAIL:
        return Turn("backwards", low, high)
    while left := [place for place in range(low + 1, high) if place not in known]:
        middle = low + high
        place = min(left, key=lambda place: abs(2 * place - middle))
        if is_decided(place):
            low, high = (place, high) if known[place] is Status.PASS else (low, place)
    return Turn("turned", low, high)
