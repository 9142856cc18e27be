"""The chart of quantizers: divergence from the model as it is against bits per weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair

from sw_audit.record.comparison import ROUND_TO_NEAREST, ComparedQuantizer
from sw_audit_reports.canvas import (
    ABOVE,
    GRID,
    INK,
    LAYOUTS,
    MUTED,
    QUIET,
    TIP,
    Layout,
    Rows,
    Words,
    at_top,
    axis_log,
    code_series,
    finish,
    read_rows,
    scale_log,
)
from sw_audit_reports.page import Drawing
from sw_audit_reports.scales import LogAxis, fit_log_axis
from sw_audit_reports.series import ATTENTION, INTACT, TOUCHED
from sw_audit_reports.text import NOT_FINITE, format_number

_SERIES = {TOUCHED: "Round-to-nearest", INTACT: "Super weights held out", ATTENTION: "Other libraries"}
_HEIGHT = 340
_LINE = 15
"""Pixels between two labels, so that none covers another."""


def draw_quantizers(rows: Sequence[ComparedQuantizer], words: Words) -> tuple[Drawing, ...]:
    """Draw divergence against bits; a divergence that is not finite is a triangle at the upper edge.

    Args:
        rows: What was measured, one at least.
        words: What the chart is called.
    """
    placed = [row for row in rows if row.quality is not None and row.bits_per_weight is not None]
    finite = [found for row in placed if (found := _find_divergence(row))]
    up = fit_log_axis(finite or [1e-3, 1.0])
    return tuple(_draw(layout, placed, up, words) for layout in LAYOUTS)


def _draw(layout: Layout, rows: Sequence[ComparedQuantizer], up: LogAxis, words: Words) -> Drawing:
    left, right, top, bottom = (44, 10, 88, 44) if layout.narrow else (56, 12, 58, 46)
    width, height = layout.width - left - right, _HEIGHT
    bits = [row.bits_per_weight or 0.0 for row in rows]
    low, high = math.floor(min(bits) * 2) / 2 - 0.25, math.ceil(max(bits) * 2) / 2 + 0.25
    points: Rows = [
        {
            "bits": row.bits_per_weight,
            "value": _find_divergence(row) or up.low,
            "finite": row.quality is not None and row.quality.divergence is not None,
            "series": _find_series(row),
            "tip": _describe(row),
        }
        for row in rows
    ]
    data = {"points": points, "pairs": _list_pairs(rows, up), "labels": _place_labels(rows, up, low, high, width)}
    seen = {point["series"] for point in points}
    colour, shape = code_series({name: label for name, label in _SERIES.items() if name in seen}, layout)
    axis = altair.Axis(
        title="Bits per weight", grid=False, tickColor=MUTED, domainColor=GRID, tickCount=6, labelExpr=_BITS
    )
    across = altair.X("bits:Q", scale=altair.Scale(domain=[low, high], nice=False, zero=False), axis=axis)
    y = altair.Y("value:Q", scale=scale_log(up), axis=axis_log(up, "KL, nats per token", **ABOVE))
    base = read_rows("points").encode(x=across, color=colour)
    finite = base.transform_filter("datum.finite").encode(y=y)
    labels = read_rows("labels")
    text: dict[str, Any] = {"color": INK, "fontSize": 11, "baseline": "middle", **QUIET}
    layers = [
        read_rows("pairs")
        .mark_rule(color=MUTED, strokeWidth=1.2, **QUIET)
        .encode(x=across, y=altair.Y("low:Q"), y2=altair.Y2("high:Q")),
        labels.mark_rule(color=GRID, strokeWidth=1, **QUIET).encode(
            x=across, y=altair.Y("value:Q"), x2=altair.X2("end:Q"), y2=altair.Y2("slot:Q")
        ),
        finite.mark_point(filled=True, size=62, opacity=0.9).encode(shape=shape, description=TIP),
        base.transform_filter("!datum.finite")
        .mark_point(filled=True, size=90, opacity=1, shape="triangle-up", yOffset=5)
        .encode(y=at_top(), description=TIP),
    ]
    sides: dict[str, dict[str, Any]] = {
        "right": {"align": "left", "dx": 3},
        "left": {"align": "right", "dx": -3},
    }
    for side, align in sides.items():
        layers.append(
            labels.transform_filter(f"datum.side == '{side}'")
            .mark_text(**text, **align)
            .encode(x=altair.X("end:Q"), y=altair.Y("slot:Q"), text=altair.Text("label:N"))
        )
    padding = {"left": left, "right": right, "top": top, "bottom": bottom}
    frame = {"width": width, "height": height, "padding": padding, "autosize": {"type": "none"}}
    return finish(layers, data, layout, words, **frame)


_BITS = "format(datum.value, ',.3~r')"


def _find_series(row: ComparedQuantizer) -> str:
    if row.method != ROUND_TO_NEAREST:
        return ATTENTION
    return INTACT if row.hold_out == "held" else TOUCHED


def _find_divergence(row: ComparedQuantizer) -> float | None:
    """Return what can stand on a logarithmic axis."""
    found = None if row.quality is None else row.quality.divergence
    return found if found is not None and found > 0 else None


def _describe(row: ComparedQuantizer) -> str:
    found = None if row.quality is None else row.quality.divergence
    shown = NOT_FINITE if found is None else f"{format_number(found, 3)} nats"
    return f"{row.name}: {shown} at {row.bits_per_weight:.2f} bits"


def _list_pairs(rows: Sequence[ComparedQuantizer], up: LogAxis) -> Rows:
    """Join each recipe to itself with the super weights held out."""
    held = {row.settings: row for row in rows if row.method == ROUND_TO_NEAREST and row.hold_out == "held"}
    return [
        {
            "bits": row.bits_per_weight,
            "low": _find_divergence(held[row.settings]) or up.low,
            "high": _find_divergence(row) or up.high,
        }
        for row in rows
        if row.method == ROUND_TO_NEAREST and row.hold_out == "none" and row.settings in held
    ]


def _place_labels(rows: Sequence[ComparedQuantizer], up: LogAxis, low: float, high: float, width: int) -> Rows:
    """Place the names of other libraries' methods in the empty middle, each on a line of its own.

    What has few bits is named to its right, what has many to its left; a thin line leads to the name.
    """
    others = [row for row in rows if row.method != ROUND_TO_NEAREST and _find_divergence(row)]
    span = math.log(up.high / up.low)
    heights = {row.name: _HEIGHT * math.log(up.high / (_find_divergence(row) or up.high)) / span for row in others}
    slots = _spread(sorted(heights.items(), key=lambda one: one[1]))
    middle = (low + high) / 2
    gap = 14 * (high - low) / width
    bits = {row.name: row.bits_per_weight or 0.0 for row in rows}
    few = max((bits[name] for name in slots if bits[name] < middle), default=low) + gap
    many = min((bits[name] for name in slots if bits[name] >= middle), default=high) - gap
    return [
        {
            "label": row.name,
            "bits": row.bits_per_weight,
            "value": _find_divergence(row),
            "slot": up.high * math.exp(-span * slots[row.name] / _HEIGHT),
            "end": few if bits[row.name] < middle else many,
            "side": "right" if bits[row.name] < middle else "left",
        }
        for row in others
    ]


def _spread(heights: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Move labels apart, downward, then all that is below the lower edge up again; pixels from the top."""
    slots: list[float] = []
    for _, height in heights:
        slots.append(max(height, slots[-1] + _LINE) if slots else max(height, 0.0))
    lowest = _HEIGHT - 4.0
    for place in reversed(range(len(slots))):
        slots[place] = min(slots[place], lowest)
        lowest = slots[place] - _LINE
    return {name: slot for (name, _), slot in zip(heights, slots, strict=True)}
