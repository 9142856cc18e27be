"""A model beside its baseline: what was known of it, or of the model it was made from, and of those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sw_audit.checks.estimate import keep_finite
from sw_audit.checks.quality_not_worse import QualityNotWorseLimits
from sw_audit.checks.registry import find_checks
from sw_audit.checks.statistics import bound_perplexity_ratio
from sw_audit.record.baseline import Baseline
from sw_audit.record.measurement import TokenLoss
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Element, code, figures, make_paragraph, make_table, text
from sw_audit_reports.plots import PERPLEXITIES, ArmRow, plot_arms
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_MEASURED,
    NOTHING,
    count,
    format_change,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_ratio,
)
from sw_audit_reports.verdicts import Estimate

_HISTORY = replace(PERPLEXITIES, title="Perplexity over the baseline's")


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
    yield _show_history(context, baseline)
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


def _show_history(context: Context, baseline: Baseline) -> Chart | None:
    """Draw the perplexity of the runs before the baseline, of the baseline, and of this run, the oldest first."""
    *earlier, itself = baseline.remember()
    held = [run for run in earlier if run.protocol == itself.protocol]
    if not earlier:
        return None
    points = [(run, compare_with(run.loss, itself.loss, context)) for run in held]
    points.append((itself, Estimate(1.0)))
    rows = [_make_row(_label(run.created, run.tool), ratio) for run, ratio in points]
    now = context.result.unedited
    if now is not None and now.protocol == itself.protocol:
        label = _label(context.record.created, context.record.tool.version)
        rows.append(_make_row(f"{label}, this run", _find_now(context, now.loss, itself.loss)))
    plot, data = plot_arms(rows, 1.0, _HISTORY)
    caption = _describe_history(baseline, len(earlier) - len(held), context.policy.confidence)
    heads = [*text("Run", "Baseline", "Model", "Digest"), *figures("Perplexity", "Over the baseline", "Interval")]
    listed = [
        (
            _label(run.created, run.tool), run.name, run.model, code(run.digest[:12]),
            format_finite(run.loss.perplexity), format_finite(ratio.value, format_ratio),
            format_interval(ratio.low, ratio.high) or NOTHING,
        )
        for run, ratio in points
    ]  # fmt: skip
    table = make_table("Every run up to the baseline", heads, listed)
    title = "Perplexity from baseline to baseline"
    return theme.make_chart(f"{context.anchor}-baseline-history", title, caption, plot, data, table)


def _make_row(label: str, ratio: Estimate) -> ArmRow:
    return ArmRow("", label, points=[ratio], figure=format_finite(ratio.value, format_ratio))


def _label(created: str, tool: str) -> str:
    return f"{created[:16].replace('T', ' ')}, sw-audit {tool}"


def _describe_history(baseline: Baseline, apart: int, confidence: float) -> Iterator[str]:
    yield f"Each run over the baseline {baseline.name}, which is 1, on the windows that both read."
    yield f"Bars are {100 * confidence:g} % intervals, paired by windows."
    if apart:
        runs = count(apart, "earlier run was", "earlier runs were")
        yield f"{runs} measured under another protocol and cannot be compared."
    yield "No verdict rests on runs before the baseline."


def compare_with(loss: TokenLoss, base: TokenLoss, context: Context) -> Estimate:
    """Return the ratio of two perplexities on the windows that both read, with its paired interval."""
    windows = min(len(loss.tokens), len(base.tokens))
    ours, theirs = loss.first(windows), base.first(windows)
    ratio = ours.ratio_to(theirs)
    if ratio is None or windows < context.policy.minimum_windows:
        return Estimate(ratio)
    bounds = bound_perplexity_ratio(ours.finite_nats, theirs.finite_nats, ours.tokens, context.policy.confidence)
    return Estimate(ratio, *map(keep_finite, bounds[1:]))


def _find_now(context: Context, loss: TokenLoss, base: TokenLoss) -> Estimate:
    """Return this run's ratio as the verdict has it, which holds at all steps together; else as measured."""
    checks = find_checks()
    for verdict in context.verdicts:
        known = checks.get(verdict.check)
        if known is not None and known.limits is QualityNotWorseLimits and verdict.observed is not None:
            return Estimate(verdict.observed, verdict.low, verdict.high)
    return compare_with(loss, base, context)
