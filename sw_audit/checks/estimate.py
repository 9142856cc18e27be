"""From a figure with its interval, and a limit, to a status.

A verdict is taken on the end of the interval that is unfavourable, never on the figure itself and never on
anything rounded. Whether a figure exists and is finite is asked before it is compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from sw_audit.record.verdict import Finding, Sample, Status


class EstimateStatus(Enum):
    """What a figure rests on."""

    MEASURED = "a figure with its interval"
    MISSING = "something that was to be measured was not"
    TOO_FEW = "a figure without an interval: too few windows or items"
    NOT_FINITE = "the arm's own value is not finite"
    NO_REFERENCE = "what the arm is compared with is not finite"


@dataclass(frozen=True)
class Estimate:
    """One figure with its interval, and what both rest on.

    Attributes:
        status: What it rests on.
        words: What was measured, a clause that can follow a label.
        observed: The figure; `None` if missing or not finite.
        low: Lower end of its interval; `None` if there is none. May be infinite.
        high: Upper end.
        arm: Name of the arm that it is about, if it is about one.
        text: The text that it was measured on, where there are several.
        sample: What it was measured over; `None` where that is no sample, or there is no figure.
        arms: Names of all arms that it compares.
    """

    status: EstimateStatus
    words: str
    observed: float | None = None
    low: float | None = None
    high: float | None = None
    arm: str | None = None
    text: str | None = None
    sample: Sample | None = None
    arms: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, if there is an interval whose ends are numbers."""
        if self.status is not EstimateStatus.MEASURED or self.low is None or self.high is None:
            return None
        return None if math.isnan(self.low) or math.isnan(self.high) else (self.low, self.high)


def hold_at_least(estimate: Estimate, limit: float) -> Status:
    """PASS if the whole interval is at or above the limit, FAIL if all of it is below."""
    if (settled := _settle(estimate)) is not None:
        return settled
    low, high = estimate.interval or (-math.inf, math.inf)
    return _status(passes=low >= limit, fails=high < limit)


def hold_at_most(estimate: Estimate, limit: float) -> Status:
    """PASS if the whole interval is at or below the limit, FAIL if all of it is above."""
    if (settled := _settle(estimate)) is not None:
        return settled
    low, high = estimate.interval or (-math.inf, math.inf)
    return _status(passes=high <= limit, fails=low > limit)


def hold_above(estimate: Estimate, limit: float) -> Status:
    """PASS if the whole interval is above the limit, FAIL if all of it is at or below."""
    if (settled := _settle(estimate)) is not None:
        return settled
    low, high = estimate.interval or (-math.inf, math.inf)
    return _status(passes=low > limit, fails=high <= limit)


def hold_exactly(observed: float | None, *, low: float = -math.inf, high: float = math.inf) -> Status:
    """PASS if a figure that has no interval, for it is no sample, is within both limits; not finite is FAIL."""
    if observed is None or not math.isfinite(observed):
        return Status.FAIL
    return Status.PASS if low <= observed <= high else Status.FAIL


def doubt_without_reference(estimate: Estimate, status: Status) -> Status:
    """Return the status, or INCONCLUSIVE where what the arm is compared with is not finite: that tells nothing."""
    return Status.INCONCLUSIVE if estimate.status is EstimateStatus.NO_REFERENCE else status


def make_finding(label: str, estimate: Estimate, status: Status, limit: float | None) -> Finding:
    """Put an estimate and what follows from it into a finding; infinite ends become `None`."""
    return Finding(
        label=label,
        status=status,
        observed=keep_finite(estimate.observed),
        low=keep_finite(estimate.low),
        high=keep_finite(estimate.high),
        limit=limit,
        arm=estimate.arm,
        text=estimate.text,
        sample=estimate.sample,
        arms=estimate.arms,
        because=estimate.words,
    )


def keep_finite(number: float | None) -> float | None:
    """Return the number, or `None` where it is missing or not finite."""
    return number if number is not None and math.isfinite(number) else None


def write_number(number: float | None) -> str:
    """Write a number for reading, to four significant digits; comparisons never use it."""
    if number is None or not math.isfinite(number):
        return "not finite"
    if number == 0:
        return "0"
    if not 1e-4 <= abs(number) < 1e9:
        return f"{number:.3g}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def write_interval(estimate: Estimate, confidence: float) -> str:
    """Write a figure with its interval, such as `213.6 (95 % interval 190.2 to 240.1)`."""
    if estimate.interval is None:
        return write_number(estimate.observed)
    low, high = estimate.interval
    ends = (write_number(end) if math.isfinite(end) else "unbounded" for end in (low, high))
    span = f"{100 * confidence:g} % interval {' to '.join(ends)}"
    return f"{write_number(estimate.observed)} ({span})"


def _settle(estimate: Estimate) -> Status | None:
    """Return the status that follows without looking at the interval, if one does."""
    if estimate.status in (EstimateStatus.NOT_FINITE, EstimateStatus.NO_REFERENCE):
        return Status.FAIL
    return None if estimate.status is EstimateStatus.MEASURED else Status.INCONCLUSIVE


def _status(*, passes: bool, fails: bool) -> Status:
    if passes:
        return Status.PASS
    return Status.FAIL if fails else Status.INCONCLUSIVE
