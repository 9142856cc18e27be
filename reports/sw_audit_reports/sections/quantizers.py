"""Quantizers side by side: divergence against bits, the figures of each, what was not measured and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair

from sw_audit.record.measurement import ROUND_TO_NEAREST, ComparedQuantizer, Comparison, Quality
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Element, Table, Words, figures, make_paragraph, make_table, text
from sw_audit_reports.plots import mark_off_scale, refer
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_MEASURED,
    NOTHING,
    count,
    format_bytes,
    format_finite,
    format_number,
    format_optional,
    format_percent,
    format_ratio,
    format_seconds,
)
from sw_audit_reports.theme import Layers, Layout, Plot, Rows, Style, read_rows

PLAIN, HELD_OUT, OTHERS = "Round-to-nearest", "Super weights held out", "Other libraries"
_SERIES = {PLAIN: theme.TOUCHED, HELD_OUT: theme.INTACT, OTHERS: theme.ATTENTION}
_FEW_BITS = 5.0
_HEIGHT = 340
_LINE = 15
"""Pixels between two labels, so that none covers another."""


def summarize_comparison(context: Context) -> Words:
    """Say in a sentence what a comparison comes to where nothing else was audited."""
    comparison = context.result.comparison
    if comparison is None or context.verdicts:
        return []
    measured = comparison.measured
    summary = f"{format_number(len(measured))} of {count(len(comparison.rows), 'quantizer')} measured"
    small = [
        (row.quality.ratio, row)
        for row in measured
        if row.quality is not None and row.quality.ratio is not None and (row.bits_per_weight or 99) <= _FEW_BITS
    ]
    if not small:
        return [f"{summary}."]
    ratio, best = min(small, key=lambda pair: pair[0])
    bits = format_number(best.bits_per_weight or 0.0, 3)
    return [
        f"{summary}. At {format_number(_FEW_BITS)} bits per weight or fewer {best.name} loses least: it "
        f"multiplies perplexity by {format_number(ratio)}, at {bits} bits."
    ]


@section("quantizers", title="Quantizers side by side", order=15, summarize=summarize_comparison)
def show_quantizers(context: Context) -> Iterator[Element | None]:
    """Show every quantizer that was measured, and say why the others were not."""
    comparison = context.result.comparison
    if comparison is None:
        return
    yield make_paragraph(" ".join(_explain(comparison)))
    if comparison.measured:
        yield _show_chart(comparison.measured, f"{context.anchor}-quantizers-chart")
    yield _list_rows(comparison)
    unmeasured = [
        (row.name, row.what, row.because or NOT_MEASURED) for row in comparison.rows if row.quality is None
    ]
    yield make_table("Not measured", text("Quantizer", "What it is", "Why not"), unmeasured)


def _explain(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Every figure is measured under one protocol ({comparison.protocol}), against the model as it is. "
        "Bits count everything that is stored for the decoder's matrices, over the number of their weights. "
        "Round-to-nearest is simulated, with scales of 16 bits; other libraries are run as they are. Ratio is "
        "perplexity over the model's own, top-1 the part of the tokens at which both find the same next token "
        "likeliest, memory the most that was held while quantizing, beyond the model's own."
    )
    if comparison.calibration_windows:
        windows = count(comparison.calibration_windows, "further window")
        yield f"Methods that learn from text were given {windows} of it."
    if any(row.hold_out == "nothing-to-hold" for row in comparison.rows):
        yield "No super weight was located, so nothing is held out."
    for row in comparison.measured:
        if row.left_alone:
            matrices = count(row.left_alone, "matrix", "matrices")
            yield f"{row.name} leaves {matrices} as they are, and their bits count."


def _list_rows(comparison: Comparison) -> Table | None:
    rows: list[Words] = [
        ["Model as it is", str(comparison.dtype_bits), *_write_quality(comparison.baseline), NOTHING, NOTHING]
    ]
    for row in comparison.measured:
        if row.quality is not None:
            bits = format_optional(row.bits_per_weight, "{:.2f}".format)
            seconds = format_optional(row.seconds, format_seconds)
            memory = format_optional(row.peak_bytes, format_bytes)
            rows.append([row.name, bits, *_write_quality(row.quality), seconds, memory])
    heads = figures("Bits", "Ratio", "Interval", "KL, nats", "Top-1", "Accuracy", "Time", "Memory")
    caption = f"Ratios with {100 * comparison.confidence:g} % intervals, paired by windows"
    return make_table(caption, [*text("Quantizer"), *heads], rows)


def _write_quality(quality: Quality) -> tuple[str, str, str, str, str]:
    interval = NOTHING
    if quality.low is not None and quality.high is not None:
        interval = f"[{format_ratio(quality.low)},\N{NO-BREAK SPACE}{format_ratio(quality.high)}]"
    return (
        format_finite(quality.ratio, format_ratio),
        interval,
        format_finite(quality.divergence, format_number, 3),
        format_optional(quality.top1, format_percent),
        format_optional(quality.accuracy, format_percent),
    )


class _Measured(NamedTuple):
    """A quantizer with its figures; bits are 0 where they are not known."""

    row: ComparedQuantizer
    quality: Quality
    bits: float

    @property
    def divergence(self) -> float | None:
        """What can stand on a logarithmic axis."""
        return self.quality.divergence if self.quality.divergence and self.quality.divergence > 0 else None

    @property
    def series(self) -> str:
        if self.row.method != ROUND_TO_NEAREST:
            return OTHERS
        return HELD_OUT if self.row.hold_out == "held" else PLAIN


class Frame(NamedTuple):
    """What a chart covers: figures from `low` to `high`, bits from `few` to `many`."""

    low: float
    high: float
    few: float
    many: float


def fit_frame(values: Sequence[float], bits: Sequence[float]) -> Frame:
    """Fit a chart around figures above zero and bits per weight."""
    finite = values or [1e-3, 1.0]
    room = min(max((max(finite) / min(finite)) ** 0.05, 1.01), 3.0)
    few, many = math.floor(min(bits) * 2) / 2 - 0.25, math.ceil(max(bits) * 2) / 2 + 0.25
    return Frame(min(finite) / room, max(finite) * room, few, many)


def _show_chart(rows: Sequence[ComparedQuantizer], id: str) -> Chart:  # noqa: A002
    """Draw divergence against bits; a divergence that is not finite is a triangle at the upper edge."""
    measured = [_Measured(row, row.quality, row.bits_per_weight or 0.0) for row in rows if row.quality is not None]
    placed = [one for one in measured if one.bits]
    frame = fit_frame([one.divergence for one in placed if one.divergence], [one.bits for one in placed])
    points: Rows = []
    for one in placed:
        written = format_finite(one.quality.divergence, lambda value: f"{format_number(value, 3)} nats")
        points.append(
            {
                "bits": one.bits,
                "value": one.divergence or frame.low,
                "finite": one.quality.divergence is not None,
                "series": one.series,
                "tip": f"{one.row.name}: {written} at {one.bits:.2f} bits",
            }
        )
    pairs: Rows = [
        {"bits": plain.bits, "low": held.divergence or frame.low, "high": plain.divergence or frame.high}
        for plain, held in _pair(placed)
    ]
    others = [
        (one.row.name, one.bits, one.divergence) for one in placed if one.series == OTHERS and one.divergence
    ]
    data = {"points": points, "pairs": pairs, "labels": place_labels(others, frame)}
    title = "How far from the model as it is, against bits per weight"
    plot = plot_against_bits(frame, theme.keep_seen(_SERIES, points), "KL, nats per token")
    return theme.make_chart(id, title, _summarize_chart(measured), plot, data)


def _pair(rows: Sequence[_Measured]) -> list[tuple[_Measured, _Measured]]:
    """Pair each recipe with itself with the super weights held out."""
    held = {one.row.settings: one for one in rows if one.series == HELD_OUT}
    plain = [one for one in rows if one.series == PLAIN and one.row.hold_out == "none"]
    return [(one, held[one.row.settings]) for one in plain if one.row.settings in held]


def _summarize_chart(rows: Sequence[_Measured]) -> Iterator[str]:
    pairs = _pair(rows)
    yield "Lower and further left is better: KL divergence in nats per token, on a logarithmic axis."
    if any(one.series != OTHERS for one in rows):
        yield "Diamonds: round-to-nearest as it is."
    if pairs:
        yield "Circles: with the super weights held out, joined to the same recipe without."
    if any(one.series == OTHERS for one in rows):
        yield "Squares: other libraries."
    gains = [
        (plain.quality.divergence / held.quality.divergence, plain.row.settings)
        for plain, held in pairs
        if plain.quality.divergence and held.quality.divergence
    ]
    if gains:
        gain, settings = max(gains)
        yield f"Holding out gains most at {settings}: {format_number(gain, 3)} times less divergence."
    if any(one.quality.divergence is None for one in rows):
        yield "A triangle at the upper edge marks a divergence that is not finite."


def plot_against_bits(
    frame: Frame, series: Mapping[str, Style], title: str, reference: float | None = None
) -> Plot:
    """Plot figures on a logarithmic axis against bits per weight; what is not finite is a triangle above.

    It reads `points` (with `low` and `high` where there are intervals), `pairs` that are joined, and `labels`.

    Args:
        frame: What it covers.
        series: The style of each series.
        title: What the figures are.
        reference: A figure at which a line is drawn.
    """
    colour, shape = theme.encode_series(series)
    # All trailing digits are left out: 4.5 and 5, not 4.50 and 5.00.
    number = "format(datum.value, ',.3~r')"
    axis = altair.Axis(title="Bits per weight", tickCount=6, labelExpr=number, domainColor=theme.GRID)
    bits = altair.Scale(domain=[frame.few, frame.many], nice=False, zero=False)
    across = altair.X("bits:Q", scale=bits, axis=axis)
    scale = altair.Scale(type="log", domain=[frame.low, frame.high], nice=False)
    up = altair.Y("value:Q", scale=scale, axis=theme.axis_log(title))
    base = read_rows("points").encode(x=across, color=colour)
    pairs = read_rows("pairs").encode(x=across, y=altair.Y("low:Q"), y2=altair.Y2("high:Q"))

    def lay_out(layout: Layout) -> tuple[Layers, dict[str, Any]]:
        left, right, top, bottom = (44, 10, 88, 44) if layout.narrow else (56, 12, 58, 46)
        width = layout.width - left - right
        # Labels stand a fixed number of pixels beside the points.
        gap = 14 * (frame.many - frame.few) / width
        labels = read_rows("labels").transform_calculate(end=f"datum.edge + datum.side * {gap}")
        lines = labels.mark_rule(color=theme.GRID, strokeWidth=1)
        texts = labels.encode(x=altair.X("end:Q"), y=altair.Y("slot:Q"), text="label:N")
        layers = [
            *([] if reference is None else [refer(reference)]),
            pairs.mark_rule(color=theme.MUTED, strokeWidth=1.2),
            lines.encode(x=across, y=altair.Y("value:Q"), x2=altair.X2("end:Q"), y2=altair.Y2("slot:Q")),
            base.transform_filter("isValid(datum.low)").mark_rule().encode(y=altair.Y("low:Q"), y2="high:Q"),
            base.transform_filter("datum.finite").mark_point(opacity=0.9).encode(y=up, shape=shape),
            mark_off_scale(base),
            texts.transform_filter("datum.side > 0").mark_text(fontSize=11, align="left", dx=3),
            texts.transform_filter("datum.side < 0").mark_text(fontSize=11, align="right", dx=-3),
        ]
        padding = {"left": left, "right": right, "top": top, "bottom": bottom}
        return layers, {"width": width, "height": _HEIGHT, "padding": padding, "autosize": {"type": "none"}}

    return lay_out


def place_labels(points: Sequence[tuple[str, float, float]], frame: Frame) -> Rows:
    """Place the names of points, of some bits and a figure each, in the empty middle, each on a line of its own.

    What has few bits is named to its right, what has many to its left; a thin line leads to the name.
    """
    span = math.log(frame.high / frame.low)
    slots = spread({name: _HEIGHT * math.log(frame.high / value) / span for name, _, value in points})
    middle = (frame.few + frame.many) / 2
    few = max((bits for _, bits, _ in points if bits < middle), default=frame.few)
    many = min((bits for _, bits, _ in points if bits >= middle), default=frame.many)
    return [
        {
            "label": name,
            "bits": bits,
            "value": value,
            "slot": frame.high * math.exp(-span * slots[name] / _HEIGHT),
            "edge": few if bits < middle else many,
            "side": 1 if bits < middle else -1,
        }
        for name, bits, value in points
    ]


def spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Move labels apart, downward, then all that is below the lower edge up again; pixels from the top."""
    names = sorted(heights, key=lambda name: heights[name])
    slots: list[float] = []
    for name in names:
        slots.append(max(heights[name], slots[-1] + _LINE) if slots else max(heights[name], 0.0))
    lowest = _HEIGHT - 4.0
    for place in reversed(range(len(slots))):
        slots[place] = min(slots[place], lowest)
        lowest = slots[place] - _LINE
    return dict(zip(names, slots, strict=True))
