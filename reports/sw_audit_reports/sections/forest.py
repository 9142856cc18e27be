"""Every figure beside its limit, on one axis: each over its own limit, so that units do not matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sw_audit.record.verdict import Side, Status, Verdict
from sw_audit_reports import theme
from sw_audit_reports.elements import Badge, Chart, Table, code, figures, make_table, text
from sw_audit_reports.plots import ArmRow, RowsLook, plot_arms
from sw_audit_reports.sections import Context, section
from sw_audit_reports.sections.checks import write_measured
from sw_audit_reports.text import (
    NOT_FINITE,
    NOTHING,
    format_beside,
    format_exact,
    format_finite,
    format_interval,
    format_optional,
    join_words,
)
from sw_audit_reports.verdicts import Estimate

_REACH = (0.01, 100.0)
_GOOD, _BAD, _OTHER = "good", "bad", "other"
_SERIES = {"pass": _GOOD, "fail": _BAD}
_LOOK = RowsLook(
    "Figure over limit, or limit over figure",
    {_GOOD: theme.INTACT, _BAD: theme.TOUCHED, _OTHER: theme.ATTENTION},
    left=262,
    right=170,
    reach=_REACH,
)
_SIDES: dict[Side | None, str] = {
    "at most": "\N{LESS-THAN OR EQUAL TO}",
    "at least": "\N{GREATER-THAN OR EQUAL TO}",
}
"""Short, for a phone."""
_GROUPS = {"gate": "Gates", "law": "Laws"}


class _Held(NamedTuple):
    """A verdict whose figure can be divided by its limit, or the limit by it; above 1 is the bad side."""

    verdict: Verdict
    ratio: Estimate


@section("limits", title="Each figure beside its limit", order=13)
def show_limits(context: Context) -> Iterator[Chart | None]:
    """Draw the figure and the interval of every gate and law beside its limit, on one axis."""
    judged = [one for one in context.verdicts if one.status is not Status.SKIPPED]
    judged.sort(key=lambda one: list(_GROUPS).index(one.level))
    held = [_Held(one, ratio) for one in judged if (ratio := divide_by_limit(one)) is not None]
    if not held:
        return
    apart = [one.check for one in judged if divide_by_limit(one) is None]
    plot, rows = plot_arms([_make_row(one) for one in held], 1.0, _LOOK)
    title, caption = "Every figure over its own limit", _describe(held, apart, context.policy.confidence)
    yield theme.make_chart(f"{context.anchor}-limits-chart", title, caption, plot, rows, _tabulate(held))


def divide_by_limit(verdict: Verdict) -> Estimate | None:
    """Return figure over limit, or limit over figure where it must be large; the good side is below 1.

    `None` where that says nothing: the limit is not above 0, or there is no figure. One that is not finite, or
    that must be large and is not above 0, is `Estimate()`, beyond every limit; one that must be small and is not
    above 0 is below the lower end of the axis.
    """
    limit, observed = verdict.limit, verdict.observed
    if limit is None or limit <= 0 or verdict.side is None:
        return None
    if observed is None:
        return Estimate() if verdict.status is Status.FAIL else None
    smallest = _REACH[0] / 10
    if verdict.side == "at most":
        ends = (None if end is None else max(end / limit, smallest) for end in (verdict.low, verdict.high))
        return Estimate(max(observed / limit, smallest), *ends)
    if observed <= 0:
        return Estimate()
    ends = (
        None if end is None else limit / end if end > 0 else 10 * _REACH[1] for end in (verdict.high, verdict.low)
    )
    return Estimate(limit / observed, *ends)


def _make_row(held: _Held) -> ArmRow:
    verdict = held.verdict
    figure = format_finite(verdict.observed, format_beside, verdict.limit, 3)
    series = _SERIES.get(Badge.of_verdict(verdict).status, _OTHER)
    return ArmRow(
        _GROUPS[verdict.level],
        verdict.check,
        series,
        [held.ratio],
        f"{figure} ({_SIDES.get(verdict.side, '')} {format_exact(verdict.limit or 0)})",
    )


def _describe(held: Sequence[_Held], apart: Sequence[str], confidence: float) -> Iterator[str]:
    yield (
        "Each figure is divided by its own limit, or the limit by it where it must be large, so that all "
        "units stand on one logarithmic axis: left of the dotted line is good, right of it is bad. Circles "
        "pass or hold, diamonds fail, squares are undecided, waived, or laws that do not hold. A triangle is "
        "beyond the edge."
    )
    drawn = [one.verdict for one in held if one.ratio.low is not None or one.ratio.high is not None]
    if drawn:
        yield f"Bars are {100 * confidence:g} % intervals; a verdict asks that the whole bar is on one side."
    without = [one.verdict.check for one in held if one.verdict not in drawn]
    if without:
        yield f"No interval, for they are counted, read, or rest on too little: {join_words(without)}."
    if apart:
        yield f"Not drawn, for there is no figure or no limit above 0 to divide by: {join_words(list(apart))}."


def _tabulate(held: Sequence[_Held]) -> Table | None:
    rows = []
    for verdict, ratio in held:
        written = format_optional(ratio.value, missing=NOT_FINITE)
        interval = format_interval(ratio.low, ratio.high) or NOTHING
        row = write_measured(verdict, verdict)
        rows.append((code(verdict.check), Badge.of_verdict(verdict), *row, written, interval))
    heads = figures("Measured", "Interval", "Limit", "Over the limit", "Its interval")
    return make_table("Every figure over its own limit", [*text("Check", "Verdict"), *heads], rows)
