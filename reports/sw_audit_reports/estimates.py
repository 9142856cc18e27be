"""What verdicts conclude about arms, looked up by what was measured and in which arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sw_audit.checks.registry import Unit, find_checks
from sw_audit.record.arm import (
    HELD_OUT,
    ActivationRounding,
    Baseline,
    Dose,
    Flipped,
    OtherOutliers,
    Placebo,
    Pruned,
    Purpose,
    RestoredActivation,
    Rounding,
    Subset,
)
from sw_audit.record.verdict import Finding, Verdict


class Estimate(NamedTuple):
    """A figure with its interval; `None` is not finite, or missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def list_figures(verdicts: Iterable[Verdict], unit: Unit) -> dict[str, Verdict | Finding]:
    """List what was concluded about single arms in a unit, by the name of the arm."""
    figures: dict[str, Verdict | Finding] = {}
    for verdict in _select(verdicts, unit):
        concluded: list[Verdict | Finding] = [verdict, *verdict.findings]
        figures |= {figure.arm: figure for figure in concluded if figure.arm is not None}
    return figures


def find_verdict(verdicts: Iterable[Verdict], unit: Unit, purpose: Purpose) -> Verdict | None:
    """Find the verdict whose own figure is about an arm, in a unit."""
    return next((verdict for verdict in _select(verdicts, unit) if verdict.arm == purpose.name), None)


def list_on_texts(verdicts: Iterable[Verdict]) -> Mapping[tuple[str, str], Finding]:
    """List what the paired perplexity of parent and descendant came to, by text and name of the arm.

    Of the descendant it is the ratio to the parent; of an arm in which a part is put back, the share that it
    recovers.
    """
    return {
        (finding.text, finding.arm): finding
        for verdict in _select(verdicts, "ratio")
        for finding in verdict.findings
        if finding.text is not None and finding.arm is not None
    }


def scale_estimate(value: float | None, ratio: Verdict | Finding | None, base: float | None) -> Estimate:
    """Return a perplexity with the interval of its ratio to another one."""
    if value is None or ratio is None or base is None:
        return Estimate(value)
    low, high = (None if end is None else end * base for end in (ratio.low, ratio.high))
    return Estimate(value, low, high)


def group_arm(purpose: Purpose) -> tuple[str, bool]:
    """Return the group that an arm is shown in, and whether it changes the super weights."""
    match purpose:
        case Baseline():
            return "", False
        case Pruned() | Flipped() | Subset() | Dose() | RestoredActivation():
            return "Super weights", True
        case OtherOutliers() | Placebo():
            return "Controls", False
        case Rounding(keep=keep):
            return "Rounded", not keep
        case ActivationRounding(treatment=treatment):
            return "Rounded", treatment != HELD_OUT
        case _:
            return "Other", False


def _select(verdicts: Iterable[Verdict], unit: Unit) -> Iterable[Verdict]:
    checks = find_checks()
    return (verdict for verdict in verdicts if verdict.check in checks and checks[verdict.check].unit == unit)
