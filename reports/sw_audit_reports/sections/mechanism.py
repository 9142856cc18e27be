"""How the super weights work: what parts of the set and doses of it do, who makes and carries the activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

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
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Element, Table, figures, make_paragraph, make_table, text
from sw_audit_reports.plots import OFF_SCALE, mark_off_scale, place_on_layer, refer, tabulate_layers, trace_layers
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
from sw_audit_reports.theme import Layers, Rows, axis_plain, keep_seen, make_chart, read_rows
from sw_audit_reports.verdicts import Estimate, estimate_ratio, find_verdict, list_figures

ATTENTION_ADDS, MLP_ADDS = "Attention adds", "MLP adds"
_STREAM_SERIES = {
    AS_IT_IS: theme.INTACT,
    ZEROED: theme.TOUCHED,
    ATTENTION_ADDS: theme.ATTENTION,
    MLP_ADDS: theme.SPIKE,
}
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
        yield _show_published(curve, f"{anchor}-published-{number}")
    for number, mechanism in enumerate(result.mechanism, start=1):
        yield _show_stream(mechanism, f"{anchor}-stream-{number}")
        yield _show_attention(mechanism, f"{anchor}-attended-{number}")


class SetRow(NamedTuple):
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
    whole = _name_scalar(*located.values()) if len(located) == 1 else count(len(located), "scalar")
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
    cells = []
    for row in rows:
        interval = format_interval(row.ratio.low, row.ratio.high) or NOTHING
        rank = [format_optional(row.rank, format_number, 2)] if ranked else []
        share = format_optional(row.share, format_percent)
        cells.append((row.label, format_finite(row.ratio.value), interval, share, *rank))
    heads = figures("Perplexity ratio", "Interval", "Share", *(["p"] if ranked else []))
    return make_table("What the set and its parts do", [*text("What is done"), *heads], cells)


def list_doses(result: ModelResult, verdicts: Sequence[Verdict]) -> dict[float, Estimate]:
    """List the perplexity ratio at every factor that the whole set was multiplied by; the smallest first."""
    ratios, doses = list_figures(verdicts, "ratio"), {}
    for measured in result.measurements:
        purpose = measured.arm.purpose
        match purpose:
            case Baseline():
                factor = 1.0
            case Pruned():
                factor = 0.0
            case Flipped():
                factor = -1.0
            case Dose():
                factor = purpose.factor
            case _:
                continue
        doses[factor] = _estimate_ratio(result, purpose, ratios)
    return dict(sorted(doses.items()))


def _estimate_ratio(result: ModelResult, arm: Purpose, ratios: Mapping[str, Verdict | Finding]) -> Estimate:
    return estimate_ratio(result.measured(arm), result.measured(BASELINE.purpose), ratios.get(arm.name))


def _measure_damage(result: ModelResult, arm: Purpose) -> float | None:
    """Return how many nats per token an arm loses against the model as it is."""
    ratio = estimate_ratio(result.measured(arm), result.measured(BASELINE.purpose)).value
    return math.log(ratio) if ratio else None


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
    points: Rows = []
    for factor, dose in doses.items():
        series = AS_IT_IS if factor == 1 else ZEROED
        placed = theme.place(f"Times {format_number(factor)}", *dose)
        points.append({"factor": factor, "series": series, **placed})
    published = {curve.model: sorted(dict([*curve.points, (1.0, 1.0)]).items()) for curve in compared}
    rows: dict[str, Rows] = {
        "points": points,
        "published": [
            row
            for model, curve in published.items()
            for row in _list_published(model, curve, f"{model}, published")
        ],
        # Right of the second point, where the curve falls.
        "names": [
            {"label": model.rpartition("/")[2], "factor": curve[1][0], "value": curve[1][1]}
            for model, curve in published.items()
        ],
    }
    across = _across_factors()
    title = "Perplexity over that of the model as it is"
    up = altair.Y("value:Q", scale=theme.scale_log([1.0]), axis=theme.axis_log(title))
    colour, shape = theme.encode_series({AS_IT_IS: theme.INTACT, ZEROED: theme.TOUCHED}, legend=False)
    base = read_rows("points").encode(x=across)
    finite = base.transform_filter("datum.finite").encode(y=up)
    names = read_rows("names").mark_text(color=theme.MUTED, align="left", dx=9)
    plot = [
        refer(1.0),
        *_trace_published(up),
        names.encode(x=across, y=up, text="label:N"),
        finite.mark_line(color=theme.TOUCHED.colour),
        finite.mark_rule().encode(y=altair.Y("low:Q"), y2=altair.Y2("high:Q"), color=colour),
        finite.mark_point().encode(color=colour, shape=shape),
        mark_off_scale(base.encode(color=colour)),
    ]
    return plot, rows


def _across_factors() -> altair.X:
    axis = altair.Axis(title="Super weights multiplied by", tickCount=8, format=".2~f")
    return altair.X("factor:Q", scale=altair.Scale(nice=False, zero=False, padding=10), axis=axis)


def _list_published(model: str, points: Sequence[tuple[float, float]], name: str) -> Rows:
    return [
        {"model": model, "factor": factor, **theme.place(f"{name}, times {format_number(factor)}", value)}
        for factor, value in points
    ]


def _trace_published(up: altair.Y) -> list[altair.Chart]:
    base = read_rows("published").encode(x=_across_factors(), y=up)
    line = base.mark_line(**theme.PUBLISHED).encode(detail=altair.Detail("model:N"))
    return [line, base.mark_point(color=theme.MUTED, filled=False, size=26, strokeWidth=1.2)]


def _tabulate_doses(doses: Mapping[float, Estimate], curves: Sequence[DoseCurve]) -> Table | None:
    published = [dict(curve.points) for curve in curves]
    rows = []
    for factor in sorted({*doses, *(factor for points in published for factor in points)}):
        dose = doses.get(factor)
        ratio = NOTHING if dose is None else format_finite(dose.value)
        interval = (format_interval(dose.low, dose.high) if dose else "") or NOTHING
        rows.append((factor, ratio, interval, *(points.get(factor) for points in published)))
    names = [
        f"Published: {curve.model.rpartition('/')[2]}{'' if curve.is_perplexity_ratio else f', {curve.quantity}'}"
        for curve in curves
    ]
    heads = figures("Factor", "Perplexity ratio", "Interval", *names)
    return make_table("Perplexity ratio at each factor", heads, rows)


def _show_published(curve: DoseCurve, id: str) -> Chart:  # noqa: A002
    """Draw a published dose curve of the audited model in its own quantity, dotted as published curves are."""
    rows = {"published": _list_published(curve.model, curve.points, "Published")}
    axis = axis_plain(f"{curve.quantity[0].upper()}{curve.quantity[1:]}")
    up = altair.Y("value:Q", scale=altair.Scale(zero=False), axis=axis)
    caption = (
        f"Not measured here: {curve.quantity} ({curve.source}). Its shape can be compared with the curve above."
    )
    title = f"What others have measured of {curve.model} at each factor"
    return make_chart(id, title, caption, _trace_published(up), rows)


def list_stream(mechanism: Mechanism) -> Rows:
    """List the super activation's entry per layer, with and without the super weights, and what is added to it."""
    figures_of: Mapping[str, Callable[[LayerMechanism], float | None]] = {
        AS_IT_IS: lambda layer: layer.intact.leaving,
        ZEROED: lambda layer: layer.pruned.leaving,
        ATTENTION_ADDS: lambda layer: layer.intact.attention,
        MLP_ADDS: lambda layer: layer.intact.mlp,
    }
    return [
        place_on_layer(one.layer, series, value, _name_series(series))
        | {"layer": one.layer + _ASIDE.get(series, 0.0)}
        for series, read in figures_of.items()
        for one in mechanism.layers
        if (value := read(one)) is not None
    ]


def list_attention(mechanism: Mechanism) -> Rows:
    """List the attention that rests on the super activation's token, with and without the super weights."""
    return [
        place_on_layer(one.layer, series, value, _name_series(series), format_percent)
        for series in (AS_IT_IS, ZEROED)
        for one in mechanism.layers
        if (value := one.attended if series == AS_IT_IS else one.attended_pruned) is not None
    ]


def _name_series(series: str) -> str:
    return "model as it is" if series == AS_IT_IS else series


def _show_stream(mechanism: Mechanism, id: str) -> Chart:  # noqa: A002
    title = f"Who makes the super activation of channel {mechanism.channel}, and who carries it"
    points = list_stream(mechanism)
    series = keep_seen(_STREAM_SERIES, points)
    rows = {
        "stream": [row for row in points if row["series"] not in _ASIDE],
        "added": [row for row in points if row["series"] in _ASIDE],
    }
    last = max(layer.layer for layer in mechanism.layers)
    colour, shape = theme.encode_series(series)
    up = altair.Y("value:Q", axis=axis_plain("Value in the residual stream"))
    added = read_rows("added").encode(x=theme.across_layers(last), y=up, color=colour)
    sticks = added.mark_rule(strokeWidth=2.5).encode(y2=altair.datum(0))
    points_added = added.mark_point(size=theme.size_points(last)).encode(shape=shape)
    plot = [refer(0.0), sticks, points_added, *trace_layers("stream", rows["stream"], up, series)]
    return make_chart(id, title, _summarize_stream(mechanism), plot, rows, _tabulate_stream(mechanism))


def _summarize_stream(mechanism: Mechanism) -> Iterator[str]:
    yield (
        "Lines: what leaves each layer. Sticks: what its attention (left) and its MLP (right) add. "
        f"All is the value of channel {mechanism.channel} at token {mechanism.token} of the locating prompt."
    )
    first, last = mechanism.first_layer, mechanism.last_layer
    made = max(mechanism.layers[: first + 1], key=lambda one: abs(one.intact.added), default=None)
    if made is not None:
        parts = {"its MLP": made.intact.mlp, "its attention": made.intact.attention}
        known = [f"{name} {format_number(value)}" for name, value in parts.items() if value is not None]
        unknown = f" ({format_number(made.intact.added)}); its blocks cannot be told apart"
        yield f"Layer {made.layer} adds most of it{': ' + ' and '.join(known) if known else unknown}."
    if mechanism.carried is not None:
        layers = f"layer {last}" if last == first + 1 else f"layers {first + 1} to {last}"
        yield f"Through {layers} skip connections alone carry at least {format_percent(mechanism.carried)} of it."
    if mechanism.dampened is not None:
        dampened = format_percent(mechanism.dampened)
        yield f"Zeroing the super weights takes {dampened} of it away (in the paper's Llama-7B: 75 %)."


def _tabulate_stream(mechanism: Mechanism) -> Table | None:
    rows = []
    for one in mechanism.layers:
        intact = one.intact
        values = (intact.skip, intact.attention, intact.mlp, intact.leaving, one.pruned.leaving)
        rows.append((one.layer, *values, format_optional(one.dampened, format_percent)))
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
    scale = altair.Scale(domain=[0, 1], nice=False)
    up = altair.Y("value:Q", scale=scale, axis=axis_plain("Share of attention", "format(datum.value, '.0%')"))
    plot = trace_layers("points", rows, up, keep_seen(_STREAM_SERIES, rows))
    name = "Attention that rests on the super activation's token"
    table = tabulate_layers(name, rows, [AS_IT_IS, ZEROED], format_percent)
    return make_chart(id, title, caption, plot, {"points": rows}, table)
