"""Each model in short: what it comes to, the gates it does not pass, and how to see everything about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.standing import list_open
from sw_audit_reports.elements import (
    Badge,
    Block,
    Element,
    Words,
    code,
    figures,
    make_cells,
    make_paragraph,
    make_table,
    split_code,
    text,
)
from sw_audit_reports.fleet import Entry, FleetContext, fleet_section
from sw_audit_reports.fleet.models import badge_of, describe_deciding
from sw_audit_reports.sections import Context, summarize_model
from sw_audit_reports.sections.checks import write_measured
from sw_audit_reports.sections.stored import list_flaws
from sw_audit_reports.verdicts import tally


@fleet_section("each", title="Each model in short", order=30)
def show_each(context: FleetContext) -> Iterator[Element | None]:
    """Fold every model away under its name, the worst first."""
    yield make_paragraph(
        "Each unfolds; everything about one of them is a page of its own, made by the command there."
    )
    for entry in context.entries:
        check, words = describe_deciding(entry.model)
        values = {
            "id": entry.anchor,
            "name": entry.model.id,
            "badge": badge_of(entry.model),
            "check": check,
            "words": words,
            "sentence": _summarize(context.record, entry),
            "tally": tally(entry.model.verdicts),
            "elements": list(filter(None, _list_elements(entry))),
            "full": f"{entry.anchor}-whole" if entry.anchor in context.full else None,
            "command": None if isinstance(entry.model, ModelFailure) else write_whole_command(entry.model.id),
        }
        yield Block("fleet_model.html.j2", values)


def write_whole_command(model_id: str) -> str:
    """Write the command that makes the page of one model of a record."""
    return shlex.join(["sw-audit", "render", "record.json", "--model", model_id, "-o", f"{model_id}.html"])


def _summarize(record: Record, entry: Entry) -> Words:
    if isinstance(entry.model, ModelFailure):
        return split_code(entry.model.message)
    return make_cells(summarize_model(Context(record.find_part(entry.model.id), entry.model, entry.anchor)))


def _list_elements(entry: Entry) -> Iterator[Element | None]:
    if isinstance(entry.model, ModelFailure):
        yield from list_flaws(entry.model.weights)
    rows = [
        (code(one.check), Badge.of_verdict(one), *write_measured(one, one), one.because)
        for one in list_open(entry.model)
    ]
    heads = [*text("Gate", "Verdict"), *figures("Measured", "Interval", "Limit"), *text("Why")]
    yield make_table(f"The gates that {entry.model.id} does not pass", heads, rows)
