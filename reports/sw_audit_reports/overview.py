"""All models at a glance, and those that could not be audited."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.descent import DESCENDANT, PARENT
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status
from sw_audit_reports.cards import build_cards
from sw_audit_reports.descent import describe_kept
from sw_audit_reports.descent_series import divide_perplexity
from sw_audit_reports.outline import ModelView, Unaudited
from sw_audit_reports.page import Badge, Cell, Table, make_table, split_code, text_row
from sw_audit_reports.sentence import conclude_model, tally
from sw_audit_reports.stored import build_files
from sw_audit_reports.text import NOT_FINITE, NOTHING, format_number, format_ratio

_NOT_AUDITED = Badge("fail", "Not audited")
_EXCUSED = Badge("skipped", "Not audited, waived")


def list_models(record: Record, models: Sequence[ModelView], failures: Sequence[Unaudited]) -> Table:
    """List all models with their verdict; where one has a parent, with what it lost beside it."""
    rows = []
    descends = any(result.descent for result in record.results)
    for view in models:
        location = record.find_model(view.name).location
        found = (str(location.outcome), format_number(len(location.super_weights)))
        rows.append(
            text_row(
                Cell(view.name, href=view.id),
                Cell("", badge=view.banner.badge),
                *(_describe_descent(record, view.name) if descends else found),
                ", ".join(part.word for part in view.banner.tally) or "no check",
            )
        )
    for one in failures:
        verdicts = [verdict for verdict in record.verdicts if verdict.model == one.name]
        ended = ", ".join(part.word for part in tally(verdicts)) or NOTHING
        unknown = [NOTHING] * (3 if descends else 2)
        rows.append(text_row(Cell(one.name, href=one.id), Cell("", badge=one.badge), *unknown, ended))
    about = ("Parent", "#Perplexity ratio", "Parent's super weights") if descends else (
        "Outcome", "#Super weights",
    )  # fmt: skip
    return make_table("All models", ("Model", "Verdict", *about, "Checks"), rows)


def build_unaudited(record: Record, failure: ModelFailure, anchor: str) -> Unaudited:
    """Build what there is to say of a model that could not be audited: why, and the checks that were judged.

    Args:
        record: The record.
        failure: Which model, and why.
        anchor: What the ids of its section begin with.
    """
    cards = build_cards(record, failure.model, anchor)
    return Unaudited(
        id=anchor,
        name=failure.model,
        badge=_NOT_AUDITED if conclude_model(record, failure.model) is Status.FAIL else _EXCUSED,
        message=split_code(failure.message),
        files=build_files(failure.weights),
        cards=tuple(card for card in cards if card.badge.status != Status.SKIPPED.value or card.waiver),
    )


def _describe_descent(record: Record, model_id: str) -> tuple[str, str, str]:
    descent = record.find_model(model_id).descent
    if descent is None:
        return NOTHING, NOTHING, NOTHING
    text = descent.texts[0]
    ratio = divide_perplexity(text.measured(DESCENDANT), text.measured(PARENT))
    shown = NOT_FINITE if ratio is None else format_ratio(ratio)
    return descent.parent.id, shown, describe_kept(descent, record.policy)
