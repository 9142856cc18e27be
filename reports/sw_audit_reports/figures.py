"""The charts of one model, with captions that say what is in them; what does not apply is said, not drawn."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict
from sw_audit_reports import tables
from sw_audit_reports.arm_chart import draw_arms
from sw_audit_reports.canvas import Words
from sw_audit_reports.charts import draw_layers, draw_recipes
from sw_audit_reports.page import Chart
from sw_audit_reports.series import (
    INTACT,
    SPIKE,
    TOUCHED,
    ArmRow,
    LayerPoint,
    RecipePoint,
    list_arms,
    list_layers,
    list_recipes,
)
from sw_audit_reports.text import NOT_FINITE, format_number

_OFF_SCALE = "A triangle at the edge marks a perplexity that is not finite."


def build_figures(
    evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy, anchor: str
) -> tuple[Chart, ...]:
    """Build the three charts of one model.

    Args:
        evidence: What was found and measured.
        verdicts: The verdicts on this model, whose intervals are shown.
        policy: Recipes, limits and the confidence of intervals.
        anchor: What the ids of the model's section begin with.
    """
    return (
        _show_layers(evidence, f"{anchor}-layers"),
        _show_arms(evidence, verdicts, policy, f"{anchor}-arms"),
        _show_recipes(evidence, verdicts, policy, f"{anchor}-recipes"),
    )


def _show_layers(evidence: ModelResult, id: str) -> Chart:  # noqa: A002
    title = "Largest activation per layer, with and without the super weights"
    points = list_layers(evidence)
    if not points:
        return Chart(id, title, "Left out: no layer was traced and no arm was measured.")
    caption = _tell_layers(evidence, points)
    marked = [weight.layer for weight in evidence.location.super_weights]
    return Chart(
        id, title, caption, draw_layers(points, marked, Words(id, title, caption)), tables.list_layers(points)
    )


def _show_arms(evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy, id: str) -> Chart:  # noqa: A002
    title = "Perplexity in every arm"
    if not evidence.measurements:
        return Chart(id, title, "Left out: no arm was measured.")
    rows = list_arms(evidence, verdicts)
    baseline = evidence.measured(BASELINE.name)
    caption = _tell_arms(rows, policy)
    drawings = draw_arms(rows, baseline.loss.perplexity if baseline else None, Words(id, title, caption))
    return Chart(id, title, caption, drawings, tables.list_measurements(evidence))


def _show_recipes(evidence: ModelResult, verdicts: Sequence[Verdict], policy: Policy, id: str) -> Chart:  # noqa: A002
    title = "Quality against block size, plain and with the super weights held out"
    points = list_recipes(evidence, verdicts, policy)
    if not points:
        return Chart(id, title, "Left out: no rounding recipe was measured.")
    caption = _tell_recipes(points)
    return Chart(id, title, caption, draw_recipes(points, Words(id, title, caption)), tables.list_recipes(points))


def _tell_layers(evidence: ModelResult, points: Sequence[LayerPoint]) -> str:
    top = {
        series: max(found, key=lambda point: point.value)
        for series in (INTACT, TOUCHED, SPIKE)
        if (found := [point for point in points if point.series == series])
    }
    told = []
    if INTACT in top:
        told.append(f"As the model is, the largest activation is {_tell_point(top[INTACT])}.")
    if TOUCHED in top:
        told.append(f"With the super weights zeroed it is {_tell_point(top[TOUCHED])}.")
    if SPIKE in top:
        told.append(f"The largest raw output of a down-projection is {_tell_point(top[SPIKE])}")
        refused = [
            found.because.rstrip(".")
            for found in evidence.location.candidates
            if found.layer == top[SPIKE].layer and not found.accepted
        ]
        taken = any(weight.layer == top[SPIKE].layer for weight in evidence.location.super_weights)
        told[-1] += f"; it was turned down: {refused[0]}." if refused and not taken else "."
    return " ".join(told)


def _tell_arms(rows: Sequence[ArmRow], policy: Policy) -> str:
    finite = [(point.value, row.label) for row in rows for point in row.points if point.value is not None]
    told = ["On a logarithmic axis."]
    if finite:
        highest, label = max(finite)
        told.append(f"The highest is {format_number(highest)} ({label}).")
    told.append("Diamonds: the super weights are changed. Circles: they are as they were.")
    if any(point.low is not None for row in rows for point in row.points):
        told.append(f"Bars are {100 * policy.confidence:g} % intervals, where a check has one.")
    if len(finite) < sum(len(row.points) for row in rows):
        told.append(_OFF_SCALE)
    return " ".join(told)


def _tell_recipes(points: Sequence[RecipePoint]) -> str:
    last = points[-1].recipe
    ends = {point.series: point.ratio.value for point in points if point.recipe == last}
    words = {
        series: NOT_FINITE if value is None else f"{format_number(value)} times that of full precision"
        for series, value in ends.items()
    }
    told = [f"Perplexity at {last}, plain: {words[TOUCHED]}."] if TOUCHED in words else []
    if INTACT in words:
        told.append(
            f"With the super weights held out: {words[INTACT]}."
            if told
            else f"Perplexity at {last}: {words[INTACT]}."
        )
    else:
        told.append("No super weights, so nothing is held out.")
    if any(point.limit is not None for point in points):
        told.append("Short bars are the policy's limits.")
    if any(point.ratio.value is None for point in points):
        told.append(_OFF_SCALE)
    return " ".join(told)


def _tell_point(point: LayerPoint) -> str:
    return f"{format_number(point.value)}, in layer {point.layer}"
