"""What a verdict says to the person who has to act on it; no traceback helps there."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_sw_audit.assignments import find_checks

if TYPE_CHECKING:
    from sw_audit.record.verdict import Finding, Verdict

_LABEL_WIDTH = 10
_LINE_WIDTH = 100
_SHOWN_COORDINATES = 8


def write_figure(found: Verdict | Finding) -> str:
    """Write what was measured with its interval, such as `1.72 [1.61, 1.84]`; nothing if there is no figure."""
    from sw_audit.checks.estimate import write_number

    if found.observed is None:
        return ""
    if found.low is None and found.high is None:
        return write_number(found.observed)
    low, high = ("unbounded" if end is None else write_number(end) for end in (found.low, found.high))
    return f"{write_number(found.observed)} [{low}, {high}]"


def write_limit(found: Verdict | Finding) -> str:
    """Write what a figure was held against, with all its digits; nothing if it is only reported."""
    return "" if found.limit is None else f"{found.limit:.12g}"


def explain_verdict(verdict: Verdict) -> str:
    """Write a verdict that is not a pass: claim, measurement, limit, place, protocol, what to do."""
    check = find_checks().get(verdict.check)
    figure = write_figure(verdict)
    shown = verdict.coordinates[:_SHOWN_COORDINATES]
    hidden = len(verdict.coordinates) - len(shown)
    parts = [
        ("claimed", check.title if check else verdict.check),
        ("measured", f"{verdict.quantity} {figure}".strip() if figure else "no figure, or one that is not finite"),
        ("limit", write_limit(verdict) or "none"),
        ("because", verdict.because),
        *(("", f"{one.label}: {one.status}, {one.because}") for one in _list_breaches(verdict)),
        *(("where" if not number else "", place) for number, place in enumerate(shown)),
        *([("", f"and {hidden} more")] if hidden else []),
        *([("protocol", verdict.protocol)] if verdict.protocol else []),
        *([("to do", verdict.remedy)] if verdict.remedy else []),
    ]
    measured = (
        f"{verdict.quantity} {figure}, limit {write_limit(verdict) or 'none'}" if figure else verdict.because
    )
    head = f"{verdict.status.upper()} {verdict.model} {verdict.check}: {measured}"
    return "\n".join([head, *(_write_part(label, text) for label, text in parts)])


def _list_breaches(verdict: Verdict) -> list[Finding]:
    from sw_audit.record.verdict import Status

    held = [finding for finding in verdict.findings if finding.status in (Status.FAIL, Status.INCONCLUSIVE)]
    return held if len(verdict.findings) > 1 else []


def _write_part(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        width=_LINE_WIDTH,
        initial_indent=f"  {label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * (_LABEL_WIDTH + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
