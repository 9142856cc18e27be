"""Models by gates: a row for each model, the worst first, a sign for each gate; and how each gate went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sw_audit.checks.registry import find_checks
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.standing import conclude_model, find_deciding, list_open
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.elements import Badge, Block, Element, Table, code, figures, make_paragraph, make_table, text
from sw_audit_reports.fleet import Entry, FleetContext, fleet_section
from sw_audit_reports.sections.checks import describe_check, write_limit, write_measured
from sw_audit_reports.text import NOTHING, count, join_words

_RANKS = {"fail": 0, "inconclusive": 1, "pass": 2, "skipped": 3}
_ENDED = ("Fail", "Inconclusive", "Pass", "Skipped", "Waived")
_SHOWN = (("fail", "failing"), ("inconclusive", "undecided"), ("pass", "passing"))


@fleet_section("models", title="Models by gates", order=10)
def show_models(context: FleetContext) -> Iterator[Element | None]:
    """Show every model's gates by signs, a table for each protocol, then how many models each gate passed."""
    gates = list_gates(context)
    decided = [gate for gate in gates if any(_decides(entry, gate) for entry in context.entries)]
    groups = context.groups
    for group in groups:
        yield _show_group(group, decided, alone=len(groups) == 1)
    skipped = [gate for gate in gates if gate not in decided]
    yield make_paragraph([f"Skipped by every model: {join_words(skipped)}."] if skipped else [])
    yield _list_gates(context, decided)


def _show_group(context: FleetContext, decided: list[str], *, alone: bool) -> Block:
    badges = [badge_of(entry.model) for entry in context.entries]
    counts = Counter(badge.status for badge in badges)
    rows = [
        {
            "entry": entry,
            "badge": badge,
            "parent": name_parent(entry.model) or NOTHING,
            "decided": describe_deciding(entry.model),
            "marks": [_mark(entry, gate) for gate in decided],
            "rank": rank,
        }
        for rank, (entry, badge) in enumerate(zip(context.entries, badges, strict=True))
    ]
    shown = [(status, word, counts[status]) for status, word in _SHOWN if counts[status]]
    values = {
        "rows": rows,
        "gates": decided,
        "caption": "Models by gates, the worst first" if alone else f"{context.name_protocol()}, the worst first",
        "shown": shown if alone and len(shown) > 1 else [],
        "total": len(rows),
        "parents": len({name_parent(entry.model) for entry in context.entries} - {""}) > 1,
    }
    return Block("fleet_table.html.j2", values)


def list_gates(context: FleetContext) -> list[str]:
    """List the ids of all gates that a model was judged by, in the checks' order."""
    held = {
        verdict.check: None
        for entry in context.entries
        for verdict in entry.model.verdicts
        if verdict.level == "gate"
    }
    known = list(find_checks())
    return sorted(held, key=lambda one: known.index(one) if one in known else len(known))


def find_gate(entry: Entry, gate: str) -> Verdict | None:
    """Find a model's verdict on a gate."""
    return next((one for one in entry.model.verdicts if one.check == gate and one.level == "gate"), None)


def badge_of(model: ModelResult | ModelFailure) -> Badge:
    """Return the badge of a model: what its verdicts come to, or that it was not audited."""
    status = conclude_model(model)
    if isinstance(model, ModelFailure) and model.stopped is None:
        return Badge("fail", "Not audited") if status is Status.FAIL else Badge("skipped", "Not audited, waived")
    return Badge.of(status)


def name_parent(model: ModelResult | ModelFailure) -> str:
    """Name what a model is held against: its parent, else its baseline, else nothing."""
    if isinstance(model, ModelFailure):
        return ""
    if model.descent is not None:
        return model.descent.parent.id
    return model.baseline.name if model.baseline is not None else ""


def describe_deciding(model: ModelResult | ModelFailure) -> tuple[str, str]:
    """Write the gate that decides against a model, and its figure with the limit; nothing where none does."""
    verdict = find_deciding(model)
    if verdict is None:
        return "", ""
    more = len([one for one in list_open(model) if one.status is verdict.status]) - 1
    figure, _, limit = write_measured(verdict, verdict)
    words = f"{figure}, {limit}" if verdict.observed is not None and verdict.limit is not None else figure
    return verdict.check, f"{words}{f'; {more} more' if more else ''}"


def _decides(entry: Entry, gate: str) -> bool:
    verdict = find_gate(entry, gate)
    return verdict is not None and verdict.status is not Status.SKIPPED


def _mark(entry: Entry, gate: str) -> dict[str, Any] | None:
    """Make the sign of a gate, with what it says in words and what it is sorted by."""
    verdict = find_gate(entry, gate)
    if verdict is None:
        return None
    badge = Badge.of_verdict(verdict)
    figure, interval, limit = write_measured(verdict, verdict)
    known = " ".join(part for part in (figure, interval) if part != NOTHING)
    words = ", ".join([f"{gate}: {badge.word}", *([known, limit] if known else [])])
    badness = 0.0 if verdict.observed is None else verdict.observed
    sign = -1 if verdict.side in (None, "at most") else 1
    return {"badge": badge, "words": words, "sort": f"{_RANKS[badge.status]} {sign * badness!r}"}


def _list_gates(context: FleetContext, gates: list[str]) -> Table | None:
    held = {gate: list(filter(None, (find_gate(entry, gate) for entry in context.entries))) for gate in gates}
    counts = {
        gate: Counter("waived" if one.waiver is not None else one.status.value for one in verdicts)
        for gate, verdicts in held.items()
    }
    ended = [name for name in _ENDED if any(counted[name.lower()] for counted in counts.values())]
    rows = []
    for gate, verdicts in held.items():
        limits = sorted({write_limit(one, one.side) for one in verdicts} - {""})
        numbers = [counts[gate][name.lower()] or NOTHING for name in ended]
        rows.append((code(gate), *numbers, " or ".join(limits) or NOTHING, describe_check(gate).title))
    heads = [*text("Gate"), *figures(*ended, "Limit"), *text("What it claims")]
    caption = f"How each gate went, over {count(len(context.entries), 'model')}"
    return make_table(caption, heads, rows)
