"""What both models decide, question by question, those that turned first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.record.descent import Decision, Decisions
from sw_audit.record.verdict import Verdict
from sw_audit_reports.elements import Element, Words, figures, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import NOTHING, format_finite, format_interval, format_percent

_LISTED = 40
"""So many questions of each kind are listed, those whose margin moved most."""


@section("decisions", title="What it decides", order=31)
def show_decisions(context: Context) -> Iterator[Element | None]:
    """Show per kind how many clear decisions turned and what of the margin is kept, then every question."""
    descent = context.result.descent
    if descent is None or not any(kind.decisions for kind in descent.decisions):
        return
    yield make_paragraph(
        "Read from the logits of how an answer begins, the same tokens for both. A margin is the logarithm of the "
        "probability of the first decision over that of the second, in nats: positive is the first."
    )
    yield _sum_up(descent.decisions, context.verdicts)
    for kind in descent.decisions:
        moved = sorted(kind.decisions, key=_rate_move, reverse=True)
        rows = [_list_question(kind, one) for one in moved[:_LISTED]]
        caption = f"{kind.label.capitalize()}, those that turned or moved most first"
        if len(moved) > len(rows):
            caption += f": {len(rows)} of {len(moved)}"
        heads = [*text("Question", "Parent", "Here"), *figures("Parent's margin", "Margin here")]
        yield make_table(caption, heads, rows, fold=caption)


def _sum_up(kinds: Sequence[Decisions], verdicts: Sequence[Verdict]) -> Element | None:
    findings = {finding.label: finding for verdict in verdicts for finding in verdict.findings}
    rows: list[Words] = []
    for kind in kinds:
        if kind.skipped:
            rows.append((kind.label, *[NOTHING] * 4, f"not asked: {kind.skipped}"))
            continue
        share, kept = findings.get(kind.label), findings.get(f"{kind.label}: margin kept")
        rows.append(
            (
                kind.label,
                len(kind.decisions),
                share.sample.count if share and share.sample else NOTHING,
                format_finite(share.observed, format_percent) if share else NOTHING,
                (format_interval(share.low, share.high, share.limit) if share else "") or NOTHING,
                format_finite(kept.observed) if kept else NOTHING,
            )
        )
    heads = figures("Questions", "Parent is clear", "Otherwise here", "Interval", "Margin kept")
    return make_table("Decisions beside the parent", [*text("Kind"), *heads], rows)


def _rate_move(one: Decision) -> tuple[bool, float]:
    if one.parent is None or one.descendant is None:
        return True, 0.0
    return one.parent * one.descendant <= 0, abs(one.descendant - one.parent)


def _list_question(kind: Decisions, one: Decision) -> Words:
    words = [_name(kind, margin) for margin in (one.parent, one.descendant)]
    return (one.name, *words, *(format_finite(margin) for margin in (one.parent, one.descendant)))


def _name(kind: Decisions, margin: float | None) -> str:
    return NOTHING if not margin else kind.sides[0 if margin > 0 else 1]
