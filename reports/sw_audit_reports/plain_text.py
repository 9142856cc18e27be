"""The record as plain text: what the terminal says of it, without colours and control sequences."""

from __future__ import annotations

from sw_audit.checks.explain import (
    MODELS_HEAD,
    TABLE_HEAD,
    align,
    breaches,
    conclude,
    describe_model,
    explain_verdict,
    list_skipped,
    list_unproved,
    list_waived,
    list_worst,
    make_row,
    write_ending,
)
from sw_audit.printable import printable
from sw_audit.record.record import Record
from sw_audit.record.standing import FEW_MODELS, group_by_protocol

_LONGEST = 10_000
"""Characters of a line: more than any sentence has."""


def render_text(record: Record) -> str:
    """Render the record as the terminal shows it.

    Of up to eight models: what each is, a table of all verdicts, the gates that do not pass in full, laws that do
    not hold, waivers, and what was skipped. Of more: the worst of them as a table. Last, how the audit ended.

    Args:
        record: The record of an audit.
    """
    blocks = _describe_many(record) if len(record.models) > FEW_MODELS else _describe_few(record)
    failed = [f"{failure.id}: not audited: {failure.message}" for failure in record.failures]
    # One that was stopped, or whose weights are not intact, was judged.
    complete = all(failure.verdicts for failure in record.failures)
    ending = write_ending(record.verdicts, conclude([record], complete=complete))
    return "".join(f"{block}\n\n" for block in [*blocks, _join(failed)] if block) + f"{ending}\n"


def _describe_few(record: Record) -> list[str]:
    verdicts = record.verdicts
    models = [_join([result.id, *(f"  {line}" for line in describe_model(result))]) for result in record.results]
    held = [
        explain_verdict(verdict)
        for part in record.parts
        for verdict in part.verdicts
        if breaches(verdict, part.policy.inconclusive)
    ]
    others = [*list_unproved(verdicts), *list_waived(verdicts), *list_skipped(verdicts)]
    tables = [
        align([TABLE_HEAD, *map(make_row, judged)])
        for group in group_by_protocol(record.models)
        if (judged := [verdict for place in group for verdict in record.models[place].verdicts])
    ]
    return [*models, *map("\n".join, tables), *held, _join(others)]


def _describe_many(record: Record) -> list[str]:
    tables, others = list_worst(record.models)
    return [*("\n".join(align([MODELS_HEAD, *rows])) for rows in tables), others]


def _join(lines: list[str]) -> str:
    return "\n".join(printable(line, _LONGEST) for line in lines)
