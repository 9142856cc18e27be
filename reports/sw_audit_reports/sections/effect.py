"""What the super weights do: activations per layer, perplexity in every arm, quality against block size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import altair

from sw_audit.record.arm import (
    BASELINE,
    HELD_OUT,
    PRUNED,
    ActivationRounding,
    Baseline,
    Dose,
    Flipped,
    OtherOutliers,
    Placebo,
    Pruned,
    Purpose,
    RestoredActivation,
    Rounding,
    Subset,
    ZeroedExpert,
    ZeroedExperts,
)
from sw_audit.record.labels import label_arm, label_granularity
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelResult
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Table, code, figures, make_table, text
from sw_audit_reports.plots import (
    CHANGED,
    OFF_SCALE,
    UNCHANGED,
    ArmRow,
    mark_off_scale,
    place_on_layer,
    plot_arms,
    plot_magnitudes,
    refer,
    tabulate_layers,
)
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_FINITE,
    NOTHING,
    format_finite,
    format_interval,
    format_number,
    format_percent,
)
from sw_audit_reports.theme import Layers, Rows, keep_seen, make_chart, read_rows
from sw_audit_reports.verdicts import estimate_perplexity, estimate_ratio, list_figures

AS_IT_IS, ZEROED, RAW = "Model as it is", "Super weights zeroed", "Down-projection output, raw"
_LAYER_SERIES = {AS_IT_IS: theme.INTACT, ZEROED: theme.TOUCHED, RAW: theme.SPIKE}
PLAIN, KEPT = "Plain", "Super weights held out"
_RECIPE_SERIES = {PLAIN: theme.TOUCHED, KEPT: theme.INTACT}
_GROUPS = ("", "Super weights", "Controls", "Experts", "Rounded", "Other")


@section("effect", title="What it does", order=70)
def show_effect(context: Context) -> Iterator[Chart]:
    """Draw the three charts of a model that is neither a descendant nor only compared; say what does not apply."""
    result = context.result
    if result.descent is not None or (result.comparison is not None and not context.verdicts):
        return
    yield _show_layers(result, f"{context.anchor}-layers")
    yield _show_arms(context, f"{context.anchor}-arms")
    yield _show_recipes(context, f"{context.anchor}-recipes")


def list_layers(result: ModelResult) -> Rows:
    """List the largest magnitude per layer: as the model is, with super weights zeroed, and raw spikes."""
    trace = result.location.trace
    peaks = {
        series: list(enumerate(measured.peaks if (measured := result.measured(arm)) else ()))
        for arm, series in ((BASELINE.purpose, AS_IT_IS), (PRUNED, ZEROED))
    }
    # Without a corpus pass the locating prompt's own trace still shows the residual stream.
    if not any(peak for _, peak in peaks[AS_IT_IS]):
        peaks[AS_IT_IS] = [(seen.layer, seen.residual) for seen in trace]
    peaks[RAW] = [(seen.layer, seen.down_output) for seen in trace]
    # A logarithmic axis has no place for zero.
    return [
        place_on_layer(layer, series, value, series.lower())
        for series, values in peaks.items()
        for layer, value in values
        if value is not None and value > 0
    ]


def _show_layers(result: ModelResult, id: str) -> Chart:  # noqa: A002
    title = "Largest activation per layer, with and without the super weights"
    rows = list_layers(result)
    if not rows:
        return Chart(id, title, "Left out: no layer was traced and no arm was measured.")
    series = keep_seen(_LAYER_SERIES, rows)
    plot, data = plot_magnitudes(rows, (weight.layer for weight in result.location.super_weights), series)
    table = tabulate_layers("Largest absolute activation", rows, series)
    return make_chart(id, title, _summarize_layers(result, rows), plot, data, table)


def _summarize_layers(result: ModelResult, rows: Rows) -> Iterator[str]:
    top = {row["series"]: row for row in sorted(rows, key=lambda row: float(row["value"]))}
    written = {series: f"{format_number(row['value'])}, in layer {row['layer']}" for series, row in top.items()}
    if AS_IT_IS in written:
        yield f"As the model is, the largest activation is {written[AS_IT_IS]}."
    if ZEROED in written:
        yield f"With the super weights zeroed it is {written[ZEROED]}."
    if RAW in written:
        layer = top[RAW]["layer"]
        refused = [one.because for one in result.location.candidates if one.layer == layer and not one.accepted]
        taken = any(weight.layer == layer for weight in result.location.super_weights)
        reason = f"; it was turned down: {refused[0].rstrip('.')}" if refused and not taken else ""
        yield f"The largest raw output of a down-projection is {written[RAW]}{reason}."


def list_arms(context: Context) -> list[ArmRow]:
    """List perplexities in the order in which arms were measured, grouped for reading.

    What is rounded alike stands together, plain first. What a dose does is shown by its own chart.
    """
    ratios = list_figures(context.verdicts, "ratio")
    baseline = context.result.measured(BASELINE.purpose)
    rows: dict[tuple[str, str], ArmRow] = {}
    ranks: dict[tuple[str, str], tuple[int, int, bool]] = {}
    subjects: dict[str, int] = {}
    for measured in context.result.measurements:
        purpose, label = measured.arm.purpose, label_arm(measured.arm)
        if isinstance(purpose, Dose):
            continue
        group, changed = _group_arm(purpose)
        row = rows.setdefault((group, label), ArmRow(group, label, CHANGED if changed else UNCHANGED))
        row.points.append(estimate_perplexity(measured, baseline, ratios.get(measured.arm.name)))
        match purpose:
            case Rounding(recipe=subject) | ActivationRounding(scheme=subject):
                rank = subjects.setdefault(str(subject), len(subjects))
            case _:
                rank = len(rows)
        ranks.setdefault((group, label), (_GROUPS.index(group), rank, not changed))
    return [rows[key] for key in sorted(rows, key=lambda key: ranks[key])]


def _group_arm(purpose: Purpose) -> tuple[str, bool]:
    """Return the group that an arm is shown in, and whether it changes the super weights."""
    match purpose:
        case Baseline():
            return "", False
        case Pruned() | Flipped() | Subset() | Dose() | RestoredActivation():
            return "Super weights", True
        case OtherOutliers() | Placebo():
            return "Controls", False
        case ZeroedExpert() | ZeroedExperts():
            return "Experts", False
        case Rounding(keep=keep):
            return "Rounded", not keep
        case ActivationRounding(treatment=treatment):
            return "Rounded", treatment != HELD_OUT
        case _:
            return "Other", False


def _show_arms(context: Context, id: str) -> Chart:  # noqa: A002
    title = "Perplexity in every arm"
    if not context.result.measurements:
        return Chart(id, title, "Left out: no arm was measured.")
    arms = list_arms(context)
    baseline = context.result.measured(BASELINE.purpose)
    plot, data = plot_arms(arms, baseline.loss.perplexity if baseline else None)
    caption = _summarize_arms(arms, context.policy.confidence)
    return make_chart(id, title, caption, plot, data, _list_measurements(context.result, baseline))


def _summarize_arms(arms: Sequence[ArmRow], confidence: float) -> Iterator[str]:
    points = [(point, arm.label) for arm in arms for point in arm.points]
    finite = [(point.value, label) for point, label in points if point.value is not None]
    yield "On a logarithmic axis."
    if finite:
        highest, label = max(finite)
        yield f"The highest is {format_number(highest)} ({label})."
    yield "Diamonds: the super weights are changed. Circles: they are as they were."
    if any(point.low is not None for point, _ in points):
        yield f"Bars are {100 * confidence:g} % intervals, where a check has one."
    if len(finite) < len(points):
        yield OFF_SCALE


def _list_measurements(result: ModelResult, baseline: Measurement | None) -> Table | None:
    rows = []
    for measured in result.measurements:
        agreement = measured.agreement
        words, choices = measured.stop_words, measured.choices
        rows.append(
            (
                code(measured.arm.name),
                format_number(sum(measured.loss.tokens)),
                format_finite(measured.loss.perplexity),
                format_finite(estimate_ratio(measured, baseline).value),
                format_finite(agreement.mean_divergence),
                format_percent(agreement.top1) if sum(agreement.tokens) else NOTHING,
                format_finite(words.mean_mass) if words else NOTHING,
                format_percent(choices.accuracy) if choices and choices.correct else NOTHING,
            )
        )
    heads = figures(
        "Tokens", "Perplexity", "Ratio", "Divergence, nats", "Same top token", "Stop-word mass", "Accuracy"
    )
    return make_table("What was measured in every arm", [*text("Arm"), *heads], rows)


def list_recipes(context: Context) -> Rows:
    """List each recipe's perplexity over that of full precision, plain and held out, in the policy's order."""
    result, recipes = context.result, context.policy.quantization.parsed()
    ratios = list_figures(context.verdicts, "ratio")
    baseline = result.measured(BASELINE.purpose)
    alike = len({recipe.family for recipe in recipes}) == 1
    rows: Rows = []
    for recipe, keep in ((recipe, keep) for recipe in recipes for keep in (False, True)):
        measured = result.measured(Rounding(recipe=recipe, keep=keep))
        if measured is None or baseline is None or not baseline.loss.perplexity:
            continue
        series, known = KEPT if keep else PLAIN, ratios.get(measured.arm.name)
        figure = estimate_ratio(measured, baseline, known)
        rows.append(
            {
                "recipe": str(recipe),
                "label": label_granularity(recipe) if alike else str(recipe),
                "family": recipe.family,
                "series": series,
                "limit": known.limit if known and keep else None,
                "interval": format_interval(figure.low, figure.high),
                **theme.place(f"{recipe}, {series.lower()}", *figure),
            }
        )
    return rows


def _show_recipes(context: Context, id: str) -> Chart:  # noqa: A002
    title = "Quality against block size, plain and with the super weights held out"
    rows = list_recipes(context)
    if not rows:
        return Chart(id, title, "Left out: no rounding recipe was measured.")
    listed = []
    for row in rows:
        treated, ratio = "held out" if row["series"] == KEPT else "plain", format_finite(row["value"])
        listed.append((code(row["recipe"]), treated, ratio, row["interval"] or NOTHING, row["limit"]))
    heads = [*text("Recipe", "Super weights"), *figures("Perplexity ratio", "Interval", "Limit")]
    table = make_table("Perplexity ratio to full precision", heads, listed)
    return make_chart(id, title, _summarize_recipes(rows), _plot_recipes(rows), {"points": rows}, table)


def _summarize_recipes(rows: Rows) -> Iterator[str]:
    last = rows[-1]["recipe"]
    ratios = {row["series"]: row["value"] for row in rows if row["recipe"] == last}
    words = {
        series: NOT_FINITE if ratio is None else f"{format_number(ratio)} times that of full precision"
        for series, ratio in ratios.items()
    }
    if PLAIN in words:
        yield f"Perplexity at {last}, plain: {words[PLAIN]}."
    if KEPT not in words:
        yield "No super weights, so nothing is held out."
    elif PLAIN in words:
        yield f"With the super weights held out: {words[KEPT]}."
    else:
        yield f"Perplexity at {last}: {words[KEPT]}."
    if any(row["limit"] is not None for row in rows):
        yield "Short bars are the policy's limits."
    if not all(row["finite"] for row in rows):
        yield OFF_SCALE


def _plot_recipes(rows: Rows) -> Layers:
    labels = list(dict.fromkeys(row["label"] for row in rows))
    families = {row["family"] for row in rows}
    title, angle = (f"One {families.pop()} scale per …", 0) if len(families) == 1 else (None, -30)
    axis = altair.Axis(title=title, labelAngle=angle, labelLimit=200, ticks=False)
    across = altair.X("label:N", sort=labels, scale=altair.Scale(type="point", padding=0.5), axis=axis)
    series = keep_seen(_RECIPE_SERIES, rows)
    colour, shape = theme.encode_series(series)
    up = altair.Y("value:Q", scale=theme.scale_log([1.0]), axis=theme.axis_log())
    base = read_rows("points").encode(x=across, color=colour)
    finite = base.transform_filter("datum.finite").encode(y=up)
    limits = read_rows("points").transform_filter("datum.limit !== null")
    limits = limits.encode(x=across, y=altair.Y("limit:Q"), text=altair.value("limit"))
    return [
        refer(1.0),
        limits.mark_tick(thickness=2, size=34),
        limits.mark_text(dx=21, align="left", fontSize=11),
        finite.mark_rule().encode(y=altair.Y("low:Q"), y2=altair.Y2("high:Q")),
        finite.mark_line().encode(detail="family:N", strokeDash=theme.encode_dash(series)),
        finite.mark_point().encode(shape=shape),
        mark_off_scale(base.transform_filter(f"datum.series == '{PLAIN}'"), aside=-8),
        mark_off_scale(base.transform_filter(f"datum.series == '{KEPT}'"), aside=8),
    ]
