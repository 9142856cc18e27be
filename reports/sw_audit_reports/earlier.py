"""The section that holds a model against what was once known of it, or of what it was made from."""

from __future__ import annotations

from sw_audit.record.baseline import Baseline
from sw_audit_reports.descent_tables import format_change
from sw_audit_reports.outline import Earlier
from sw_audit_reports.page import Cell, Table, make_table, text_row
from sw_audit_reports.text import NOT_FINITE, NOT_MEASURED, NOTHING, format_number, format_ratio


def build_earlier(baseline: Baseline | None) -> Earlier | None:
    """Build the section of one model; `None` where nothing is compared."""
    if baseline is None:
        return None
    perplexity = baseline.measurement.loss.perplexity
    then = NOT_FINITE if perplexity is None else format_number(perplexity)
    told = (
        f"Held against the baseline {baseline.name} of {baseline.created[:10]}, of {baseline.model.source}: its "
        f"perplexity was {then} under protocol {baseline.protocol.signature}. Its weights were not needed."
    )
    return Earlier(told, _list_weights(baseline), _list_activations(baseline))


def _list_weights(baseline: Baseline) -> Table | None:
    rows = [
        text_row(
            Cell(str(one.address), code=True),
            format_number(one.before, 5),
            NOT_MEASURED if one.value is None else format_number(one.value, 5),
            format_change(one.value, one.before),
        )
        for one in baseline.weights
    ]
    return (
        make_table("Its super weights, then and now", ("Scalar", "#Then", "#Now", "#Change"), rows)
        if rows
        else None
    )


def _list_activations(baseline: Baseline) -> Table | None:
    rows = [
        text_row(
            *(format_number(place) for place in (one.channel, one.token)),
            format_number(one.before),
            NOT_FINITE if one.value is None else format_number(one.value),
            NOTHING if one.value is None or not one.before else format_ratio(one.value / one.before),
        )
        for one in baseline.activations
    ]
    titles = ("#Channel", "#Token", "#Then", "#Now", "#Ratio")
    return make_table("Its super activations, then and now", titles, rows) if rows else None
