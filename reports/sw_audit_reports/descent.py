"""The section that holds a model beside its parent, and the sentence that sums it up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sw_audit.policy.policy import Policy
from sw_audit.record.descent import DESCENDANT, PARENT, RESTORED_WEIGHTS, Descent, RetainedWeight
from sw_audit.record.verdict import Verdict
from sw_audit_reports import descent_tables
from sw_audit_reports.arm_chart import draw_arms
from sw_audit_reports.canvas import Words
from sw_audit_reports.charts import draw_layers
from sw_audit_reports.continuations import pair_continuations
from sw_audit_reports.descent_series import (
    divide_perplexity,
    find_ratio,
    label_texts,
    list_noise,
    list_peaks,
    list_perplexities,
    list_recovered,
)
from sw_audit_reports.noise_chart import draw_noise, name_decibels
from sw_audit_reports.outline import Beside
from sw_audit_reports.page import Cell, Chart
from sw_audit_reports.series import INTACT, TOUCHED
from sw_audit_reports.text import NOTHING, count, format_interval, format_number, format_percent, format_ratio

_PEAK_SERIES = {INTACT: "Parent", TOUCHED: "This model"}
_HEALED = 0.5


def build_beside(
    descent: Descent | None, verdicts: Sequence[Verdict], policy: Policy, anchor: str
) -> Beside | None:
    """Build the section of one model.

    Args:
        descent: The model beside its parent.
        verdicts: The verdicts on this model, whose intervals are shown.
        policy: The confidence of intervals.
        anchor: What the ids of the section begin with.

    Returns:
        `None` where the model has no parent.
    """
    if descent is None:
        return None
    figures = (
        _show_quality(descent, verdicts, policy, f"{anchor}-beside-quality"),
        _show_peaks(descent, policy, f"{anchor}-beside-peaks"),
        _show_noise(descent, f"{anchor}-beside-noise"),
    )
    return Beside(
        told=(Cell(" ".join(descent.notes)),) if descent.notes else (),
        parent=descent_tables.list_parent(descent.parent),
        weights=descent_tables.list_weights(descent),
        activations=descent_tables.list_activations(descent),
        figures=tuple(figure for figure in figures if figure is not None),
        quality=descent_tables.list_quality(descent, verdicts),
        recovered=descent_tables.list_recoveries(list_recovered(descent, verdicts)),
        modules=descent_tables.list_modules(descent),
        tasks=descent_tables.list_tasks(descent, verdicts),
        continuations=pair_continuations(descent.continuations, verdicts),
    )


def tell_descent(descent: Descent, verdicts: Sequence[Verdict], policy: Policy) -> tuple[Cell, ...]:
    """Say in a sentence what the model is beside its parent: what it lost, and what brings it back.

    Args:
        descent: The model beside its parent.
        verdicts: The verdicts on this model.
        policy: How far a super weight may be off.
    """
    label, text = next(label_texts(descent))
    ratio = divide_perplexity(text.measured(DESCENDANT), text.measured(PARENT))
    held = find_ratio(verdicts, label)
    span = format_interval(held.low, held.high, held.limit) if held else ""
    told = "Its perplexity is not finite"
    if ratio is not None:
        told = " ".join(filter(None, ("Its perplexity is", format_ratio(ratio), span, "times its parent's")))
    return (Cell(told), *_tell_weights(descent, policy), *_tell_recovery(descent, verdicts), Cell("."))


def describe_kept(descent: Descent, policy: Policy) -> str:
    """Say in a few words how many of the parent's super weights are kept."""
    total = len(descent.super_weights)
    kept = sum(_is_kept(one, policy) for one in descent.super_weights)
    return f"{format_number(kept)} of {format_number(total)} kept" if total else NOTHING


def _is_kept(weight: RetainedWeight, policy: Policy) -> bool:
    error = weight.relative_error
    return error is not None and abs(error) <= policy.checks.super_weight_retained.maximum_error


def _tell_weights(descent: Descent, policy: Policy) -> list[Cell]:
    weights = descent.super_weights
    if not weights:
        return []
    worst = max(weights, key=lambda one: math.inf if one.relative_error is None else abs(one.relative_error))
    if all(_is_kept(one, policy) for one in weights):
        single = len(weights) == 1
        kept = "its super weight is kept" if single else f"all {count(len(weights), 'super weight')} are kept"
        if not worst.relative_error:
            return [Cell(f"; {kept}")]
        change = descent_tables.format_change(worst.value, worst.parent)
        return [Cell(f"; {kept}, changed by {'' if single else 'at most '}{change}")]
    unknown = "what cannot be read" if worst.finite else "what is not finite"
    here = unknown if worst.value is None else format_number(worst.value)
    return [
        Cell("; "),
        Cell(str(worst.address), code=True),
        Cell(f" has gone from {format_number(worst.parent)} to {here}"),
    ]


def _tell_recovery(descent: Descent, verdicts: Sequence[Verdict]) -> list[Cell]:
    """Tell of the part that recovers most, if that is half of the loss at least: the super weights before all."""
    shares = [
        (one.share.value, one)
        for one in list_recovered(descent, verdicts)
        if one.share is not None and one.share.value is not None
    ]
    whole = [one for one in shares if one[1].arm == RESTORED_WEIGHTS and one[0] >= _HEALED]
    value, best = max(whole or shares, key=lambda one: one[0], default=(0.0, None))
    if best is None or best.share is None or value < _HEALED:
        return []
    ends = (best.share.low, best.share.high)
    low, high = (None if end is None else format_percent(end) for end in ends)
    span = "" if low is None or high is None else f" [{low}, {high}]"
    head, recovered = "; putting back its parent's ", f" recovers {format_percent(value)}{span} of the loss"
    if best.arm == RESTORED_WEIGHTS:
        number = len(descent.parent_location.super_weights)
        return [Cell(f"{head}{count(number, 'super weight') if number != 1 else 'super weight'}{recovered}")]
    return [Cell(head), Cell(best.part, code=True), Cell(recovered)]


def _show_quality(descent: Descent, verdicts: Sequence[Verdict], policy: Policy, id: str) -> Chart:  # noqa: A002
    title = "Perplexity beside the parent, and with parts of the parent put back"
    rows = list_perplexities(descent, verdicts)
    told = ["On a logarithmic axis. The diamond is this model, circles the parent and what has parts of it."]
    if any(point.low is not None for row in rows for point in row.points):
        told.append(f"Bars are {100 * policy.confidence:g} % intervals of its ratio to the parent.")
    if any(point.value is None for row in rows for point in row.points):
        told.append("A triangle at the edge marks a perplexity that is not finite.")
    parent = descent.texts[0].measured(PARENT)
    alone = len(descent.texts) == 1 and parent is not None
    baseline = parent.loss.perplexity if alone and parent else None
    caption = " ".join(told)
    return Chart(id, title, caption, draw_arms(rows, baseline, Words(id, title, caption)))


def _show_peaks(descent: Descent, policy: Policy, id: str) -> Chart | None:  # noqa: A002
    points = list_peaks(descent)
    if not points:
        return None
    followed = max(descent.super_activations, key=lambda one: max(map(abs, one.parent), default=0.0), default=None)
    if followed is not None and followed.layers:
        title = f"The super activation of channel {followed.channel}, layer by layer"
        caption = f"Magnitude at token {followed.token} of the locating prompt, after each layer."
        if any(value is None for value in followed.value):
            caption += " Where it is not finite here, there is no point."
    else:
        title = "Largest activation per layer"
        caption = "Largest magnitude in each layer's output over the text."
    marked = [weight.layer for weight in descent.super_weights]
    # What is allowed is on the axis too, so that a small difference looks small.
    allowed = policy.checks.super_activation_retained
    ends = (allowed.minimum_ratio, allowed.maximum_ratio)
    span = [point.value * end for point in points if point.series == INTACT for end in ends if end]
    drawings = draw_layers(points, marked, Words(id, title, caption), _PEAK_SERIES, span)
    return Chart(id, title, caption, drawings, descent_tables.list_points(points))


def _show_noise(descent: Descent, id: str) -> Chart | None:  # noqa: A002
    points = list_noise(descent)
    if not points:
        return None
    title = "How far each layer's output is from the parent's"
    told = [
        "Noise to signal in the residual stream over scored tokens, in decibels: 0 dB is noise as large as the "
        "signal. The first token is not scored, so a super activation that is lost there shows one layer later."
    ]
    whole = [point for point in points if point.series == TOUCHED and point.decibels is not None]
    if whole:
        worst = max(whole, key=lambda point: point.decibels or 0.0)
        told.append(f"The most is {name_decibels(worst)}, after layer {worst.layer}.")
    if any(point.decibels is None for point in points):
        told.append("A triangle at the upper edge marks noise that is not finite.")
    caption = " ".join(told)
    drawings = draw_noise(points, Words(id, title, caption))
    return Chart(id, title, caption, drawings, descent_tables.list_noises(points))
