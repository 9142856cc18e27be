"""Three charts of how super weights work: the dose, what each layer adds and carries, and who attends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair

from sw_audit.record.dose import DoseCurve
from sw_audit_reports.canvas import (
    ABOVE,
    COLOURS,
    DASH,
    FIT,
    HEIGHT,
    LAYOUTS,
    MUTED,
    QUIET,
    RULE,
    TIP,
    Layout,
    Rows,
    Words,
    across_layers,
    at_top,
    axis_log,
    axis_plain,
    code_series,
    describe_point,
    finish,
    list_ends,
    place_point,
    read_rows,
    scale_log,
)
from sw_audit_reports.causes import DoseFigure, StreamPoint
from sw_audit_reports.page import Drawing
from sw_audit_reports.scales import fit_log_axis
from sw_audit_reports.series import ATTENTION, INTACT, SPIKE, TOUCHED
from sw_audit_reports.text import format_number, format_percent

STREAM_SERIES = {
    INTACT: "Model as it is",
    TOUCHED: "Super weights zeroed",
    ATTENTION: "Attention adds",
    SPIKE: "MLP adds",
}
PERCENT = "format(datum.value, '.0%')"
# Beside its layer's tick, so that what two blocks add never hides each other.
_ASIDE = {ATTENTION: -0.16, SPIKE: 0.16}


def draw_doses(doses: Sequence[DoseFigure], curves: Sequence[DoseCurve], words: Words) -> tuple[Drawing, ...]:
    """Draw perplexity over that of the model as it is against the factor, with published curves behind.

    A ratio that is not finite is a triangle at the upper edge.

    Args:
        doses: What was measured, by rising factor; one at least.
        curves: Published curves of perplexity ratios.
        words: What the chart is called.
    """
    published = {curve.model: [*curve.points, (1.0, 1.0)] for curve in curves}
    ends = [end for dose in doses for end in list_ends(dose.ratio)]
    axis = fit_log_axis([1.0, *ends, *(value for points in published.values() for _, value in points)])
    factors = [dose.factor for dose in doses] + [factor for points in published.values() for factor, _ in points]
    rows: dict[str, Rows] = {
        "points": [
            {
                "factor": dose.factor,
                "series": INTACT if dose.factor == 1 else TOUCHED,
                "tip": f"Times {format_number(dose.factor)}: {describe_point(dose.ratio)}",
                **place_point(dose.ratio),
            }
            for dose in doses
        ],
        "published": [
            {
                "model": model,
                "factor": factor,
                "value": value,
                "tip": f"{model}, published, times {format_number(factor)}: {format_number(value)}",
            }
            for model, points in published.items()
            for factor, value in sorted(dict(points).items())
        ],
        "names": [
            {"label": model.rpartition("/")[2], "side": side, "factor": factor, "value": value}
            for model, points in published.items()
            for side, place in (("left", 0), ("right", min(1, len(points) - 1)))
            for factor, value in [sorted(points)[place]]
        ],
        "one": [{"one": 1.0}],
    }
    across = altair.X(
        "factor:Q",
        scale=altair.Scale(domain=[min(factors) - 0.1, max(factors) + 0.1], nice=False),
        axis=altair.Axis(
            title="Super weights multiplied by", grid=False, tickColor=MUTED, tickCount=8, format=".2~f"
        ),
    )
    up = altair.Y(
        "value:Q",
        scale=scale_log(axis),
        axis=axis_log(axis, "Perplexity over that of the model as it is", **ABOVE),
    )
    # Names stand left of their curves, over the rise to the flipped sign, where there is room for them.
    room = min(dose.factor for dose in doses) <= -1
    return tuple(
        _draw_dose_layout(layout, rows, across, up, words, "left" if room and not layout.narrow else "right")
        for layout in LAYOUTS
    )


def _draw_dose_layout(
    layout: Layout, rows: dict[str, Rows], across: altair.X, up: altair.Y, words: Words, side: str
) -> Drawing:
    colour, shape = code_series({}, layout)
    base = read_rows("points").encode(x=across)
    finite = base.transform_filter("datum.finite").encode(y=up)
    published = read_rows("published").encode(x=across, y=up)
    line: dict[str, Any] = {"color": MUTED, "strokeWidth": 1.2, "strokeDash": [3, 3]}
    layers = [
        read_rows("one").mark_rule(**RULE).encode(y=altair.Y("one:Q")),
        published.mark_line(**line, **QUIET).encode(detail=altair.Detail("model:N")),
        published.mark_point(color=MUTED, size=26, strokeWidth=1.2).encode(description=TIP),
        read_rows("names")
        .transform_filter(f"datum.side == '{side}'")
        .mark_text(
            color=MUTED, align="right" if side == "left" else "left", dx=-9 if side == "left" else 9, **QUIET
        )
        .encode(x=across, y=up, text=altair.Text("label:N")),
        finite.mark_line(strokeWidth=1.8, color=COLOURS[TOUCHED], **QUIET),
        finite.mark_rule(strokeWidth=2, **QUIET).encode(y=altair.Y("low:Q"), y2=altair.Y2("high:Q"), color=colour),
        finite.mark_point(filled=True, size=60, opacity=1).encode(color=colour, shape=shape, description=TIP),
        base.transform_filter("!datum.finite")
        .mark_point(filled=True, size=90, opacity=1, shape="triangle-up", yOffset=5)
        .encode(y=at_top(), color=colour, description=TIP),
    ]
    return finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT)


def draw_stream(points: Sequence[StreamPoint], words: Words) -> tuple[Drawing, ...]:
    """Draw one entry of the residual stream layer by layer, and what attention and MLP add to it.

    Args:
        points: The figures; one at least.
        words: What the chart is called.
    """
    last = max(point.layer for point in points)
    rows: dict[str, Rows] = {
        "stream": _list_rows(points, (INTACT, TOUCHED)),
        "added": _list_rows(points, (ATTENTION, SPIKE)),
        "zero": [{"zero": 0.0}],
    }
    seen = {point.series for point in points}
    labels = {name: label for name, label in STREAM_SERIES.items() if name in seen}
    size = 48 if last < 40 else 18
    drawings = []
    for layout in LAYOUTS:
        colour, shape = code_series(labels, layout)
        up = altair.Y("value:Q", axis=axis_plain("Value in the residual stream"))
        stream = read_rows("stream").encode(x=across_layers(last), y=up, color=colour)
        added = read_rows("added").encode(x=across_layers(last), y=up, color=colour)
        layers = [
            read_rows("zero").mark_rule(**RULE).encode(y=altair.Y("zero:Q")),
            added.mark_rule(strokeWidth=2.5, **QUIET).encode(y2=altair.Y2("zero:Q")),
            added.mark_point(filled=True, size=size, opacity=1).encode(shape=shape, description=TIP),
            stream.mark_line(strokeWidth=1.8, **QUIET).encode(strokeDash=DASH),
            stream.mark_point(filled=True, size=size, opacity=1).encode(shape=shape, description=TIP),
        ]
        drawings.append(finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT))
    return tuple(drawings)


def draw_attended(points: Sequence[StreamPoint], words: Words) -> tuple[Drawing, ...]:
    """Draw the part of later tokens' attention that rests on one token, layer by layer.

    Args:
        points: The figures, 0 to 1; one at least.
        words: What the chart is called.
    """
    last = max(point.layer for point in points)
    rows: dict[str, Rows] = {"points": _list_rows(points, (INTACT, TOUCHED), percent=True)}
    seen = {point.series for point in points}
    labels = {name: label for name, label in STREAM_SERIES.items() if name in seen}
    scale = altair.Scale(domain=[0, 1], nice=False)
    up = altair.Y("value:Q", scale=scale, axis=axis_plain("Share of attention", PERCENT))
    drawings = []
    for layout in LAYOUTS:
        colour, shape = code_series(labels, layout)
        base = read_rows("points").encode(x=across_layers(last), y=up, color=colour)
        layers = [
            base.mark_line(strokeWidth=1.8, **QUIET).encode(strokeDash=DASH),
            base.mark_point(filled=True, size=48 if last < 40 else 18, opacity=1).encode(
                shape=shape, description=TIP
            ),
        ]
        drawings.append(finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT))
    return tuple(drawings)


def _list_rows(points: Sequence[StreamPoint], series: Sequence[str], *, percent: bool = False) -> Rows:
    return [
        {
            "layer": point.layer + _ASIDE.get(point.series, 0.0),
            "value": point.value,
            "zero": 0.0,
            "series": point.series,
            "tip": f"Layer {point.layer}, {STREAM_SERIES[point.series].replace('Model', 'model')}: "
            f"{format_percent(point.value) if percent else format_number(point.value)}",
        }
        for point in points
        if point.series in series
    ]
