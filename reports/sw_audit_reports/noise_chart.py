"""The chart of noise: how far each layer's output is from the parent's, in decibels."""

from __future__ import annotations

from collections.abc import Sequence

import altair

from sw_audit_reports.canvas import (
    DASH,
    FIT,
    HEIGHT,
    LAYOUTS,
    QUIET,
    RULE,
    TIP,
    Rows,
    Words,
    across_layers,
    at_top,
    axis_plain,
    code_series,
    finish,
    read_rows,
)
from sw_audit_reports.descent_series import NoisePoint
from sw_audit_reports.page import Drawing
from sw_audit_reports.series import INTACT, TOUCHED
from sw_audit_reports.text import NOT_FINITE, format_number

NOISE_SERIES = {TOUCHED: "All layers so far", INTACT: "This layer alone, on the parent's input"}


def draw_noise(points: Sequence[NoisePoint], words: Words) -> tuple[Drawing, ...]:
    """Draw noise to signal layer by layer; what is not finite is a triangle at the upper edge.

    Args:
        points: Decibels, one at least.
        words: What the chart is called.
    """
    last = max(point.layer for point in points)
    rows: dict[str, Rows] = {
        "points": [
            {
                "layer": point.layer,
                "value": point.decibels,
                "finite": point.decibels is not None,
                "series": point.series,
                "tip": f"Layer {point.layer}, {NOISE_SERIES[point.series].lower()}: {name_decibels(point)}",
            }
            for point in points
        ],
        "zero": [{"zero": 0.0}],
    }
    seen = {point.series for point in points}
    labels = {name: label for name, label in NOISE_SERIES.items() if name in seen}
    size = 48 if last < 40 else 18
    drawings = []
    for layout in LAYOUTS:
        colour, shape = code_series(labels, layout)
        up = altair.Y("value:Q", axis=axis_plain("Noise to signal, dB"))
        base = read_rows("points").encode(x=across_layers(last), color=colour)
        finite = base.transform_filter("datum.finite").encode(y=up)
        layers = [
            read_rows("zero").mark_rule(**RULE).encode(y=altair.Y("zero:Q")),
            finite.mark_line(strokeWidth=1.8, **QUIET).encode(strokeDash=DASH),
            finite.mark_point(filled=True, size=size, opacity=1).encode(shape=shape, description=TIP),
            base.transform_filter("!datum.finite")
            .mark_point(filled=True, size=90, opacity=1, shape="triangle-up", yOffset=5)
            .encode(y=at_top(), description=TIP),
        ]
        drawings.append(finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT))
    return tuple(drawings)


def name_decibels(point: NoisePoint) -> str:
    """Write a point's figure with its unit."""
    return NOT_FINITE if point.decibels is None else f"{format_number(round(point.decibels, 1))} dB"
