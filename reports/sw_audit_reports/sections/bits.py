"""Quality against bits: what each recipe stores per weight and costs, plain and with super weights held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sw_audit.record.arm import BASELINE, Rounding
from sw_audit.record.measurement import ROUND_TO_NEAREST, ComparedQuantizer
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, code, figures, make_table, text
from sw_audit_reports.plots import OFF_SCALE
from sw_audit_reports.sections import Context, section
from sw_audit_reports.sections.effect import KEPT, PLAIN
from sw_audit_reports.sections.quantizers import OTHERS, fit_frame, place_labels, plot_against_bits
from sw_audit_reports.text import NOTHING, format_finite, format_interval, format_number
from sw_audit_reports.theme import Plot, Rows, keep_seen, make_chart
from sw_audit_reports.verdicts import Estimate, estimate_ratio, list_figures

_SERIES = {PLAIN: theme.TOUCHED, KEPT: theme.INTACT, OTHERS: theme.ATTENTION}
_SMALL, _NAMED = 1.05, 20


@section("bits", title="Quality against bits", order=72)
def show_bits(context: Context) -> Iterator[Chart]:
    """Draw the perplexity ratio of everything that was rounded against its bits per weight."""
    rows = list_bits(context)
    if not rows:
        return
    listed = [
        (
            code(row["name"]),
            row["series"],
            f"{row['bits']:.3f}",
            format_finite(row["value"]),
            row["interval"] or NOTHING,
        )
        for row in rows
    ]
    heads = [*text("What", "Treatment"), *figures("Bits per weight", "Perplexity ratio", "Interval")]
    table = make_table("Perplexity ratio and bits per weight", heads, listed)
    title = "Perplexity ratio against bits per weight"
    caption = _summarize(rows, context.policy.confidence)
    plot, data = _plot(rows)
    yield make_chart(f"{context.anchor}-bits-chart", title, caption, plot, data, table)


def list_bits(context: Context) -> Rows:
    """List what was quantized and how: bits per weight and perplexity ratio, the fewest bits first."""
    comparison = context.result.comparison
    listed = _list_rounded(context) if comparison is None else map(_place_compared, comparison.measured)
    return sorted(filter(None, listed), key=lambda row: float(row["bits"]))


def _list_rounded(context: Context) -> Iterator[dict[str, Any]]:
    result, ratios = context.result, list_figures(context.verdicts, "ratio")
    baseline = result.measured(BASELINE.purpose)
    for measured in result.measurements:
        purpose, bits = measured.arm.purpose, result.bits_per_weight.get(measured.arm.name)
        if isinstance(purpose, Rounding) and bits is not None and baseline is not None:
            figure = estimate_ratio(measured, baseline, ratios.get(measured.arm.name))
            yield _place(str(purpose.recipe), KEPT if purpose.keep else PLAIN, bits, figure)


def _place_compared(row: ComparedQuantizer) -> dict[str, Any] | None:
    quality, bits = row.quality, row.bits_per_weight
    if quality is None or bits is None:
        return None
    figure = Estimate(quality.ratio, quality.low, quality.high)
    if row.method != ROUND_TO_NEAREST:
        return _place(row.method, OTHERS, bits, figure)
    return _place(row.settings, KEPT if row.hold_out == "held" else PLAIN, bits, figure)


def _place(name: str, series: str, bits: float, figure: Estimate) -> dict[str, Any]:
    tip = f"{name}, {series.lower()}, {format_number(bits, 3)} bits"
    interval = format_interval(figure.low, figure.high)
    return {
        "name": name,
        "series": series,
        "bits": bits,
        "interval": interval,
        "bound": figure.high,
        **theme.place(tip, *figure),
    }


def _summarize(rows: Rows, confidence: float) -> Iterator[str]:
    yield (
        "Further down is better, further left is smaller; 1 is the model as it is. Bits count codes, scales and "
        "weights that are kept."
    )
    sure = [row for row in rows if row["bound"] is not None and row["bound"] <= _SMALL]
    if sure:
        least = sure[0]
        named = f"{least['name']}, {least['series'].lower()}"
        yield (
            f"The fewest bits whose interval stays within {format_number(_SMALL)} times the model's own: "
            f"{format_number(least['bits'], 3)} ({named}), {format_number(least['value'])} {least['interval']}."
        )
    if any(row["interval"] for row in rows):
        yield f"Bars are {100 * confidence:g} % intervals, where a check has one."
    if not all(row["finite"] for row in rows):
        yield OFF_SCALE


def _plot(rows: Rows) -> tuple[Plot, dict[str, Rows]]:
    ends = [row[end] for row in rows for end in ("low", "value", "high") if row[end]]
    frame = fit_frame([1.0, *ends], [row["bits"] for row in rows])
    of_name: dict[str, Rows] = {}
    for row in rows:
        if row["finite"]:
            of_name.setdefault(row["name"], []).append(row)
    highest = {name: max(points, key=lambda row: float(row["value"])) for name, points in of_name.items()}
    labels = place_labels([(name, row["bits"], row["value"]) for name, row in highest.items()][:_NAMED], frame)
    pairs = [
        {"bits": points[0]["bits"], "low": points[0]["value"], "high": points[1]["value"]}
        for points in of_name.values()
        if len(points) > 1
    ]
    plot = plot_against_bits(frame, keep_seen(_SERIES, rows), "Perplexity ratio", reference=1.0)
    return plot, {"points": rows, "pairs": pairs, "labels": labels}
