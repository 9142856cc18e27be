"""The chart of a published dose curve of the audited model itself, in its own quantity."""

from __future__ import annotations

import altair

from sw_audit.record.dose import DoseCurve
from sw_audit_reports.canvas import FIT, HEIGHT, LAYOUTS, MUTED, QUIET, TIP, Words, axis_plain, finish, read_rows
from sw_audit_reports.page import Drawing
from sw_audit_reports.text import format_number

_ROOM = 0.1


def draw_published(curve: DoseCurve, words: Words) -> tuple[Drawing, ...]:
    """Draw a published figure against the factor, dotted as published curves are.

    Args:
        curve: The curve.
        words: What the chart is called.
    """
    factors = [factor for factor, _ in curve.points]
    rows = {
        "published": [
            {
                "factor": factor,
                "value": value,
                "tip": f"Published, times {format_number(factor)}: {format_number(value)}",
            }
            for factor, value in curve.points
        ]
    }
    across = altair.X(
        "factor:Q",
        scale=altair.Scale(domain=[min(factors) - _ROOM, max(factors) + _ROOM], nice=False),
        axis=altair.Axis(
            title="Super weights multiplied by", grid=False, tickColor=MUTED, tickCount=8, format=".2~f"
        ),
    )
    title = f"{curve.quantity[0].upper()}{curve.quantity[1:]}".removesuffix(", over the factor")
    up = altair.Y("value:Q", scale=altair.Scale(zero=False), axis=axis_plain(title))
    base = read_rows("published").encode(x=across, y=up)
    layers = [
        base.mark_line(color=MUTED, strokeWidth=1.2, strokeDash=[3, 3], **QUIET),
        base.mark_point(color=MUTED, size=26, strokeWidth=1.2).encode(description=TIP),
    ]
    return tuple(
        finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT) for layout in LAYOUTS
    )
