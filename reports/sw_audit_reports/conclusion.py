"""What verdicts come to: for a model, for a record, and how many checks ended how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict, worst_status
from sw_audit_reports.elements import Badge
from sw_audit_reports.text import count, format_number, join_words

_ENDED = {
    Status.PASS: "passed",
    Status.FAIL: "failed",
    Status.INCONCLUSIVE: "inconclusive",
    Status.SKIPPED: "skipped",
}


def conclude_model(model: ModelResult | ModelFailure) -> Status:
    """Return the worst of a model's verdicts; a model that could not be audited fails.

    Where nothing was decided that is INCONCLUSIVE: it must not look like a pass. A waived verdict counts as
    nothing, and so does a model that could not be audited if one of its verdicts is waived.
    """
    status = worst_status(verdict.status for verdict in model.verdicts if verdict.waiver is None)
    if isinstance(model, ModelFailure) and not any(verdict.waiver for verdict in model.verdicts):
        return Status.FAIL
    return Status.INCONCLUSIVE if status is Status.SKIPPED else status


def conclude_record(record: Record) -> Status:
    """Return the worst of all models; a record of no model decides nothing."""
    status = worst_status(conclude_model(model) for model in record.models)
    return Status.INCONCLUSIVE if status is Status.SKIPPED else status


def tally(verdicts: Iterable[Verdict]) -> list[Badge]:
    """Count how many verdicts ended how, leaving out what did not happen; waived ones are counted apart."""
    listed = list(verdicts)
    counted = Counter(verdict.status for verdict in listed if verdict.waiver is None)
    badges = [
        Badge(status.value, f"{format_number(counted[status])} {word}")
        for status, word in _ENDED.items()
        if counted[status]
    ]
    waived = sum(verdict.waiver is not None for verdict in listed)
    return [*badges, Badge("skipped", f"{format_number(waived)} waived")] if waived else badges


def summarize_record(record: Record) -> str:
    """Say in a sentence how an audit of several models ended."""
    if not record.models:
        return "No model was audited."
    counted = Counter(conclude_model(result) for result in record.results)
    ended = [f"{format_number(counted[status])} {word}" for status, word in _ENDED.items() if counted[status]]
    ended += [f"{format_number(len(record.failures))} could not be audited"] if record.failures else []
    return f"Of {count(len(record.models), 'model')}, {join_words(ended)}."
