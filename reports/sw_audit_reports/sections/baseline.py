"""A model beside its baseline: what was known of it, or of the model it was made from."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit_reports.elements import Element, code, figures, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_MEASURED,
    format_change,
    format_finite,
    format_number,
    format_optional,
    format_ratio,
)


@section("baseline", title="Beside its baseline", order=40)
def show_baseline(context: Context) -> Iterator[Element | None]:
    """Compare the super weights and super activations with those of the baseline."""
    baseline = context.result.baseline
    if baseline is None:
        return
    yield make_paragraph(
        f"Held against the baseline {baseline.name} of {baseline.created[:10]}, of {baseline.model.source}: its "
        f"perplexity was {format_finite(baseline.measurement.loss.perplexity)} under protocol "
        f"{baseline.protocol.signature}. Its weights were not needed."
    )
    weights = [
        (
            code(weight.address),
            format_number(weight.before, 5),
            format_optional(weight.value, format_number, 5, missing=NOT_MEASURED),
            format_change(weight.value, weight.before),
        )
        for weight in baseline.weights
    ]
    heads = [*text("Scalar"), *figures("Then", "Now", "Change")]
    yield make_table("Its super weights, then and now", heads, weights)
    activations = []
    for held in baseline.activations:
        ratio = held.value / held.before if held.value is not None and held.before else None
        now = format_finite(held.value)
        activations.append((held.channel, held.token, held.before, now, format_optional(ratio, format_ratio)))
    heads = figures("Channel", "Token", "Then", "Now", "Ratio")
    yield make_table("Its super activations, then and now", heads, activations)
