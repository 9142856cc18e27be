"""How the super weights work: what parts of the set and doses of it do, who makes and carries the activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import altair

from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    PRUNED,
    Baseline,
    Dose,
    Flipped,
    Pruned,
    Purpose,
    Subset,
    list_pruned,
    list_subsets,
)
from sw_audit.record.labels import label_subset
from sw_audit.record.location import LayerMechanism, Mechanism, SuperWeight
from sw_audit.record.published import DoseCurve
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Finding, Verdict
from sw_audit_reports.elements import Chart, Element, Table, figures, make_paragraph, make_table, text
from sw_audit_reports.estimates import Estimate, find_verdict, list_figures, scale_estimate
from sw_audit_reports.plots import OFF_SCALE, mark_off_scale, refer, tabulate_layers, trace_layers
from sw_audit_reports.sections import Context, section
from sw_audit_reports.sections.effect import AS_IT_IS, ZEROED
from sw_audit_reports.text import (
    NOTHING,
    count,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_percent,
    join_words,
)
from sw_audit_reports.theme import (
    ATTENTION,
    INTACT,
    MUTED,
    PUBLISHED,
    SPIKE,
    TOUCHED,
    Layers,
    Rows,
    across_layers,
    axis_log,
    axis_plain,
    describe,
    encode_series,
    keep_seen,
    make_chart,
    place,
    read_rows,
    scale_log,
    size_points,
)

ATTENTION_ADDS, MLP_ADDS = "Attention adds", "MLP adds"
_STREAM_SERIES = {AS_IT_IS: INTACT, ZEROED: TOUCHED, ATTENTION_ADDS: ATTENTION, MLP_ADDS: SPIKE}
# Beside its layer's tick, so that what two blocks add never hides each other.
_ASIDE = {ATTENTION_ADDS: -0.16, MLP_ADDS: 0.16}


@section("mechanism", title="How it works", order=90)
def show_mechanism(context: Context) -> Iterator[Element | None]:
    """Show what parts of the set and doses of it do, and follow each super activation block by block."""
    result, anchor = context.result, context.anchor
    scaled = any(isinstance(measured.arm.purpose, Dose) for measured in result.measurements)
    if scaled or result.measured(FLIPPED) is not None:
        sets = list_sets(result, context.verdicts)
        yield make_paragraph(_summarize_sets(sets, find_verdict(context.verdicts, "p-value", PRUNED)))
        yield _tabulate_sets(sets)
    if scaled:
        yield _show_doses(context, f"{anchor}-dose")
    own = [curve for curve in result.published_doses if curve.own and not curve.is_perplexity_ratio]
    for number, curve in enumerate(own, start=1):
        yield show_published(curve, f"{anchor}-published-{number}")
    for number, mechanism in enumerate(result.mechanism, start=1):
        yield _show_stream(mechanism, f"{anchor}-stream-{number}")
        yield _show_attention(mechanism, f"{anchor}-attended-{number}")


@dataclass(frozen=True)
class SetRow:
    """A part of the set of super weights, changed on its own.

    Attributes:
        label: What was done, and to which scalars.
        ratio: Perplexity over that of the model as it is.
        share: Part of the damage of zeroing them all, in nats per token; `None` where that has no measure.
        rank: p-value of its rank among the matched controls; `None` where no rank was taken.
    """

    label: str
    ratio: Estimate
    share: float | None
    rank: float | None


def list_sets(result: ModelResult, verdicts: Sequence[Verdict]) -> list[SetRow]:
    """List what zeroing all of the set, its parts, and flipping its sign does.

    A part is looked up by its scalars, for what two parts have in common was measured once. Of a set of two, all
    but one is the other alone: that has no row of its own.
    """
    located = {weight.address: weight for weight in result.location.super_weights}
    arms = {pruned: one.arm.purpose for one in result.measurements if (pruned := list_pruned(one.arm))}
    whole = count(len(located), "scalar")
    if len(located) == 1:
        whole = _name_scalar(*located.values())
    labels: list[tuple[str, Purpose | None]] = [(f"All zeroed: {whole}", arms.get(frozenset(located)))]
    for subset, members in list_subsets(result.location.addresses).items():
        if len(located) > 2 or subset.part != "without":
            label = f"{label_subset(subset)} zeroed: {_name_members(subset, members, located)}"
            labels.append((label, arms.get(frozenset(members))))
    labels.append((f"All, sign flipped: {whole}", FLIPPED))
    ratios, ranks = list_figures(verdicts, "ratio"), list_figures(verdicts, "p-value")
    damage = _measure_damage(result, PRUNED)
    rows = []
    for label, arm in labels:
        if arm is None or result.measured(arm) is None:
            continue
        own = _measure_damage(result, arm)
        share = own / damage if own is not None and damage else None
        rank = ranks[arm.name].observed if arm.name in ranks else None
        rows.append(SetRow(label, _estimate_ratio(result, arm, ratios), share, rank))
    return rows


def list_doses(result: ModelResult, verdicts: Sequence[Verdict]) -> dict[float, Estimate]:
    """List the perplexity ratio at every factor that the whole set was multiplied by; the smallest first."""
    ratios, doses = list_figures(verdicts, "ratio"), {}
    for measured in result.measurements:
        factor = _find_factor(measured.arm.purpose)
        if factor is not None:
            doses[factor] = _estimate_ratio(result, measured.arm.purpose, ratios)
    return dict(sorted(doses.items()))


def _summarize_sets(rows: Sequence[SetRow], ranked: Verdict | None) -> str:
    whole = next((row for row in rows if row.share is not None), None)
    if whole is None or whole.ratio.value is None:
        return ""
    effect = f"Zeroed together, the super weights multiply perplexity by {format_number(whole.ratio.value)}"
    if ranked is None or ranked.observed is None:
        return f"{effect}."
    above = ranked.counts["at least as harmful"]
    compared = f"{format_number(above) if above else 'none'} {'do' if above > 1 else 'does'} as much harm"
    return (
        f"{effect}; of {count(ranked.counts['controls'], 'matched control')} {compared} "
        f"(p = {format_number(ranked.observed, 2)}). Each part stands below with its share of that damage, in "
        "nats per token, and its own p among the same controls."
    )


def _tabulate_sets(rows: Sequence[SetRow]) -> Table | None:
    ranked = any(row.rank is not None for row in rows)
    cells = [
        (
            row.label,
            format_finite(row.ratio.value),
            format_interval(row.ratio.low, row.ratio.high) or NOTHING,
            format_optional(row.share, format_percent),
            *([format_optional(row.rank, format_number, 2)] if ranked else []),
        )
        for row in rows
    ]
    heads = figures("Perplexity ratio", "Interval", "Share", *(["p"] if ranked else []))
    return make_table("What the set and its parts do", [*text("What is done"), *heads], cells)


def _show_doses(context: Context, id: str) -> Chart:  # noqa: A002
    title = "Perplexity ratio against what is left of the super weights"
    doses = list_doses(context.result, context.verdicts)
    curves = context.result.published_doses
    compared = [curve for curve in curves if curve.is_perplexity_ratio]
    caption = _summarize_doses(doses, compared, context.policy.confidence)
    plot, rows = _plot_doses(doses, compared)
    return make_chart(id, title, caption, plot, rows, _tabulate_doses(doses, curves))


def _summarize_doses(
    doses: Mapping[float, Estimate], compared: Sequence[DoseCurve], confidence: float
) -> Iterator[str]:
    flipped = f"{format_number(-1)} is their sign flipped, " if -1 in doses else ""
    yield f"On a logarithmic axis; {flipped}1 is the model as it is, 0 its super weights zeroed."
    half = doses.get(0.5, Estimate()).value
    if half is not None:
        yield f"With half of them left perplexity is {format_number(half)} times as high."
    if any(dose.low is not None for dose in doses.values()):
        yield f"Bars are {100 * confidence:g} % intervals."
    if any(dose.value is None for dose in doses.values()):
        yield OFF_SCALE
    if compared:
        models = list(dict.fromkeys(curve.model for curve in compared))
        sources = list(dict.fromkeys(curve.source for curve in compared))
        yield (
            f"Dotted: published curves of {join_words(models)} on their own texts ({join_words(sources)}); "
            "their shape can be compared, their height only roughly."
        )


def _plot_doses(doses: Mapping[float, Estimate], compared: Sequence[DoseCurve]) -> tuple[Layers, dict[str, Rows]]:
    published = {curve.model: sorted(dict([*curve.points, (1.0, 1.0)]).items()) for curve in compared}
    rows: dict[str, Rows] = {
        "points": [
            {
                "factor": factor,
                "series": AS_IT_IS if factor == 1 else ZEROED,
                "tip": f"Times {format_number(factor)}: {describe(*dose)}",
                **place(*dose),
            }
            for factor, dose in doses.items()
        ],
        "published": [
            {
                "model": model,
                "factor": factor,
                "value": value,
                "tip": f"{model}, published, times {format_number(factor)}: {format_number(value)}",
            }
            for model, points in published.items()
            for factor, value in points
        ],
        # Right of the second point, where the curve falls.
        "names": [
            {"label": model.rpartition("/")[2], "factor": points[1][0], "value": points[1][1]}
            for model, points in published.items()
        ],
    }
    across = _across_factors()
    up = altair.Y("value:Q", scale=scale_log([1.0]), axis=axis_log("Perplexity over that of the model as it is"))
    colour, shape = encode_series({AS_IT_IS: INTACT, ZEROED: TOUCHED}, legend=False)
    base = read_rows("points").encode(x=across)
    finite = base.transform_filter("datum.finite").encode(y=up)
    names = read_rows("names").mark_text(color=MUTED, align="left", dx=9)
    plot = [
        refer(1.0),
        *_trace_published(up),
        names.encode(x=across, y=up, text="label:N"),
        finite.mark_line(color=TOUCHED.colour),
        finite.mark_rule().encode(y=altair.Y("low:Q"), y2=altair.Y2("high:Q"), color=colour),
        finite.mark_point().encode(color=colour, shape=shape),
        mark_off_scale(base.encode(color=colour)),
    ]
    return plot, rows


def _across_factors() -> altair.X:
    axis = altair.Axis(title="Super weights multiplied by", tickCount=8, format=".2~f")
    return altair.X("factor:Q", scale=altair.Scale(nice=False, zero=False, padding=10), axis=axis)


def _trace_published(up: altair.Y) -> list[altair.Chart]:
    base = read_rows("published").encode(x=_across_factors(), y=up)
    line = base.mark_line(**PUBLISHED).encode(detail=altair.Detail("model:N"))
    return [line, base.mark_point(color=MUTED, filled=False, size=26, strokeWidth=1.2)]


def _tabulate_doses(doses: Mapping[float, Estimate], curves: Sequence[DoseCurve]) -> Table | None:
    published = [dict(curve.points) for curve in curves]
    rows = []
    for factor in sorted({*doses, *(factor for points in published for factor in points)}):
        dose = doses.get(factor)
        rows.append(
            (
                format_number(factor),
                NOTHING if dose is None else format_finite(dose.value),
                (format_interval(dose.low, dose.high) if dose else "") or NOTHING,
                *(format_optional(points.get(factor)) for points in published),
            )
        )
    names = [
        f"Published: {curve.model.rpartition('/')[2]}{'' if curve.is_perplexity_ratio else f', {curve.quantity}'}"
        for curve in curves
    ]
    heads = figures("Factor", "Perplexity ratio", "Interval", *names)
    return make_table("Perplexity ratio at each factor", heads, rows)


def show_published(curve: DoseCurve, id: str) -> Chart:  # noqa: A002
    """Draw a published dose curve of the audited model in its own quantity, dotted as published curves are."""
    rows: Rows = [
        {
            "model": curve.model,
            "factor": factor,
            "value": value,
            "tip": f"Published, times {format_number(factor)}: {format_number(value)}",
        }
        for factor, value in curve.points
    ]
    title = f"{curve.quantity[0].upper()}{curve.quantity[1:]}"
    up = altair.Y("value:Q", scale=altair.Scale(zero=False), axis=axis_plain(title))
    caption = (
        f"Not measured here: {curve.quantity} ({curve.source}). Its shape can be compared with the curve above."
    )
    plot = _trace_published(up)
    return make_chart(
        id, f"What others have measured of {curve.model} at each factor", caption, plot, {"published": rows}
    )


def list_stream(mechanism: Mechanism) -> Rows:
    """List the super activation's entry per layer, with and without the super weights, and what is added to it."""
    figures_of = {
        AS_IT_IS: lambda layer: layer.intact.leaving,
        ZEROED: lambda layer: layer.pruned.leaving,
        ATTENTION_ADDS: lambda layer: layer.intact.attention,
        MLP_ADDS: lambda layer: layer.intact.mlp,
    }
    return _list_rows(mechanism, figures_of, format_number)


def list_attention(mechanism: Mechanism) -> Rows:
    """List the attention that rests on the super activation's token, with and without the super weights."""
    figures_of = {AS_IT_IS: lambda layer: layer.attended, ZEROED: lambda layer: layer.attended_pruned}
    return _list_rows(mechanism, figures_of, format_percent)


def _list_rows(
    mechanism: Mechanism,
    figures_of: Mapping[str, Callable[[LayerMechanism], float | None]],
    write: Callable[[float], str],
) -> Rows:
    names = {AS_IT_IS: "model as it is"}
    return [
        {
            "layer": one.layer + _ASIDE.get(series, 0.0),
            "value": value,
            "series": series,
            "tip": f"Layer {one.layer}, {names.get(series, series)}: {write(value)}",
        }
        for series, read in figures_of.items()
        for one in mechanism.layers
        if (value := read(one)) is not None
    ]


def _show_stream(mechanism: Mechanism, id: str) -> Chart:  # noqa: A002
    title = f"Who makes the super activation of channel {mechanism.channel}, and who carries it"
    points = list_stream(mechanism)
    series = keep_seen(_STREAM_SERIES, points)
    rows = {
        "stream": [row for row in points if row["series"] not in _ASIDE],
        "added": [row for row in points if row["series"] in _ASIDE],
    }
    last = max(layer.layer for layer in mechanism.layers)
    colour, shape = encode_series(series)
    up = altair.Y("value:Q", axis=axis_plain("Value in the residual stream"))
    added = read_rows("added").encode(x=across_layers(last), y=up, color=colour)
    sticks = added.mark_rule(strokeWidth=2.5).encode(y2=altair.datum(0))
    points_added = added.mark_point(size=size_points(last)).encode(shape=shape)
    plot = [refer(0.0), sticks, points_added, *trace_layers("stream", rows["stream"], up, series)]
    return make_chart(id, title, _summarize_stream(mechanism), plot, rows, _tabulate_stream(mechanism))


def _summarize_stream(mechanism: Mechanism) -> Iterator[str]:
    yield (
        "Lines: what leaves each layer. Sticks: what its attention (left) and its MLP (right) add. "
        f"All is the value of channel {mechanism.channel} at token {mechanism.token} of the locating prompt."
    )
    made = max(mechanism.layers[: mechanism.first_layer + 1], key=lambda one: abs(one.intact.added), default=None)
    if made is not None:
        parts = {"its MLP": made.intact.mlp, "its attention": made.intact.attention}
        known = [f"{name} {format_number(value)}" for name, value in parts.items() if value is not None]
        added = format_number(made.intact.added)
        yield (
            f"Layer {made.layer} adds most of it: {' and '.join(known)}."
            if known
            else f"Layer {made.layer} adds most of it ({added}); its blocks cannot be told apart."
        )
    if mechanism.carried is not None:
        layers = f"layers {mechanism.first_layer + 1} to {mechanism.last_layer}"
        if mechanism.last_layer == mechanism.first_layer + 1:
            layers = f"layer {mechanism.last_layer}"
        yield f"Through {layers} skip connections alone carry at least {format_percent(mechanism.carried)} of it."
    if mechanism.dampened is not None:
        dampened = format_percent(mechanism.dampened)
        yield f"Zeroing the super weights takes {dampened} of it away (in the paper's Llama-7B: 75 %)."


def _tabulate_stream(mechanism: Mechanism) -> Table | None:
    rows = []
    for one in mechanism.layers:
        intact = one.intact
        values = (intact.skip, intact.attention, intact.mlp, intact.leaving, one.pruned.leaving)
        dampened = format_optional(one.dampened, format_percent)
        rows.append((format_number(one.layer), *map(format_optional, values), dampened))
    heads = figures("Layer", "Skip brings", "Attention adds", "MLP adds", "Leaves", "Leaves, zeroed", "Dampened")
    return make_table("The super activation's entry, layer by layer", heads, rows)


def _show_attention(mechanism: Mechanism, id: str) -> Chart:  # noqa: A002
    title = f"Attention that rests on token {mechanism.token}, where channel {mechanism.channel} is massive"
    rows = list_attention(mechanism)
    if not rows:
        return Chart(id, title, "Left out: this model shows no attention weights, or no token follows that one.")
    caption = "Mean over heads and over the tokens after it, on the locating prompt."
    later = [row for row in rows if row["layer"] > mechanism.first_layer]
    before, after = ([row["value"] for row in later if row["series"] == name] for name in (AS_IT_IS, ZEROED))
    if before and after:
        caption += (
            f" In the layers after the super activation is made it is {format_percent(sum(before) / len(before))}"
            f" on average, and with the super weights zeroed {format_percent(sum(after) / len(after))}."
        )
    series = keep_seen(_STREAM_SERIES, rows)
    scale = altair.Scale(domain=[0, 1], nice=False)
    up = altair.Y("value:Q", scale=scale, axis=axis_plain("Share of attention", "format(datum.value, '.0%')"))
    plot = trace_layers("points", rows, up, series)
    title_of_table = "Attention that rests on the super activation's token"
    table = tabulate_layers(title_of_table, rows, [AS_IT_IS, ZEROED], format_percent)
    return make_chart(id, title, caption, plot, {"points": rows}, table)


def _name_scalar(weight: SuperWeight) -> str:
    expert = "" if weight.expert is None else f"expert {weight.expert}, "
    return f"layer {weight.layer} [{expert}{weight.row}, {weight.column}]"


def _name_members(
    subset: Subset, members: Sequence[WeightAddress], located: Mapping[WeightAddress, SuperWeight]
) -> str:
    first = located[members[0]]
    scalars = count(len(members), "scalar")
    match subset.part:
        case "alone":
            return _name_scalar(first)
        case "row":
            return f"row {first.row}, {scalars}"
        case "column":
            return f"layer {first.layer}, column {first.column}, {scalars}"
        case "without":
            [kept] = set(located) - set(members)
            return f"{_name_scalar(located[kept])} stays"


def _find_factor(purpose: Purpose) -> float | None:
    """Return what an arm multiplies the whole set by, if that is what it is for."""
    match purpose:
        case Baseline():
            return 1.0
        case Pruned():
            return 0.0
        case Flipped():
            return -1.0
        case Dose(factor=factor):
            return factor
        case _:
            return None


def _estimate_ratio(result: ModelResult, arm: Purpose, ratios: Mapping[str, Verdict | Finding]) -> Estimate:
    damage = _measure_damage(result, arm)
    if damage is None or damage > math.log(1e300):
        return Estimate()
    return scale_estimate(math.exp(damage), ratios.get(arm.name), 1.0)


def _measure_damage(result: ModelResult, arm: Purpose) -> float | None:
    """Return how many nats per token an arm loses against the model as it is."""
    measured, baseline = result.measured(arm), result.measured(BASELINE.purpose)
    if measured is None or baseline is None:
        return None
    lost, base = measured.loss.mean_nats, baseline.loss.mean_nats
    return None if lost is None or base is None else lost - base
