"""Two charts: activations by layer, and perplexity ratios by what shares one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import altair

from sw_audit_reports.canvas import (
    DASH,
    FIT,
    HEIGHT,
    INK,
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
    code_series,
    describe_point,
    finish,
    list_ends,
    place_point,
    read_rows,
    scale_log,
)
from sw_audit_reports.page import Drawing
from sw_audit_reports.scales import fit_log_axis
from sw_audit_reports.series import INTACT, SPIKE, TOUCHED, LayerPoint, RecipePoint
from sw_audit_reports.text import format_number

_LAYER_SERIES = {
    INTACT: "Model as it is",
    TOUCHED: "Super weights zeroed",
    SPIKE: "Down-projection output, raw",
}
_RECIPE_SERIES = {TOUCHED: "Plain", INTACT: "Super weights held out"}


def draw_layers(
    points: Sequence[LayerPoint],
    marked: Iterable[int],
    words: Words,
    names: Mapping[str, str] = _LAYER_SERIES,
    span: Iterable[float] = (),
) -> tuple[Drawing, ...]:
    """Draw magnitudes of activations per layer, such as with and without the super weights.

    Args:
        points: Magnitudes, one at least.
        marked: Layers of the super weights, drawn as lines.
        words: What the chart is called.
        names: What each series is called.
        span: Further magnitudes that the axis is to reach.
    """
    axis = fit_log_axis([*(point.value for point in points), *span])
    last = max(point.layer for point in points)
    seen = {point.series for point in points}
    labels = {name: label for name, label in names.items() if name in seen}
    rows: dict[str, Rows] = {
        "points": [
            {
                "layer": point.layer,
                "value": point.value,
                "series": point.series,
                "tip": _describe_layer(point, names),
            }
            for point in points
        ],
        "marks": [{"layer": layer, "label": "super weight"} for layer in sorted(set(marked))],
    }
    across = across_layers(last)
    up = altair.Y("value:Q", scale=scale_log(axis), axis=axis_log(axis))
    size = 48 if last < 40 else 18
    drawings = []
    for layout in LAYOUTS:
        colour, shape = code_series(labels, layout)
        base = read_rows("points").encode(x=across, y=up, color=colour)
        rule = read_rows("marks").encode(x=altair.X("layer:Q"))
        stream = base.transform_filter(f"datum.series != '{SPIKE}'")
        spikes = base.transform_filter(f"datum.series == '{SPIKE}'")
        layers = [
            rule.mark_rule(**RULE),
            rule.mark_text(color=MUTED, align="left", dx=-4, dy=-4, baseline="bottom", **QUIET).encode(
                y=at_top(), text=altair.Text("label:N")
            ),
            stream.mark_line(strokeWidth=1.8, **QUIET).encode(strokeDash=DASH),
            stream.mark_point(filled=True, size=size, opacity=1).encode(shape=shape, description=TIP),
            # Open, so that a spike that coincides with what it makes hides nothing.
            spikes.mark_point(size=1.6 * size, strokeWidth=1.6, opacity=1).encode(shape=shape, description=TIP),
        ]
        drawings.append(finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT))
    return tuple(drawings)


def draw_recipes(points: Sequence[RecipePoint], words: Words) -> tuple[Drawing, ...]:
    """Draw perplexity ratios against what shares one scale, plain and with super weights held out.

    A ratio that is not finite is a triangle at the upper edge.

    Args:
        points: Ratios in the policy's order, one at least.
        words: What the chart is called.
    """
    limits = {(point.recipe, point.limit) for point in points if point.limit is not None}
    axis = fit_log_axis(
        [1.0, *(limit for _, limit in limits), *(end for point in points for end in list_ends(point.ratio))]
    )
    alike = len({point.family for point in points}) == 1
    names = {point.recipe: point.label if alike else point.recipe for point in points}
    rows: dict[str, Rows] = {
        "points": [
            {
                "recipe": names[point.recipe],
                "family": point.family,
                "series": point.series,
                "tip": f"{point.recipe}, {_RECIPE_SERIES[point.series].lower()}: {describe_point(point.ratio)}",
                **place_point(point.ratio),
            }
            for point in points
        ],
        "limits": [{"recipe": names[recipe], "limit": limit, "word": "limit"} for recipe, limit in sorted(limits)],
        "one": [{"one": 1.0}],
    }
    across = altair.X(
        "recipe:N",
        sort=list(names.values()),
        scale=altair.Scale(type="point", padding=0.5),
        axis=altair.Axis(
            title=f"One {points[0].family} scale per …" if alike else None,
            labelAngle=0 if alike else -30,
            labelLimit=200,
            grid=False,
            ticks=False,
        ),
    )
    up = altair.Y("value:Q", scale=scale_log(axis), axis=axis_log(axis))
    seen = {point.series for point in points}
    labels = {name: label for name, label in _RECIPE_SERIES.items() if name in seen}
    return tuple(_draw_recipe_layout(layout, rows, labels, across, up, words) for layout in LAYOUTS)


def _draw_recipe_layout(
    layout: Layout, rows: dict[str, Rows], labels: dict[str, str], across: altair.X, up: altair.Y, words: Words
) -> Drawing:
    colour, shape = code_series(labels, layout)
    base = read_rows("points").encode(x=across, color=colour)
    finite = base.transform_filter("datum.finite").encode(y=up)
    limits = read_rows("limits").encode(x=across, y=altair.Y("limit:Q"))
    layers = [
        read_rows("one").mark_rule(**RULE).encode(y=altair.Y("one:Q")),
        limits.mark_tick(color=INK, thickness=2, size=34, **QUIET),
        limits.mark_text(color=INK, dx=21, align="left", fontSize=11, **QUIET).encode(text=altair.Text("word:N")),
        finite.mark_rule(strokeWidth=2, **QUIET).encode(y=altair.Y("low:Q"), y2=altair.Y2("high:Q")),
        finite.mark_line(strokeWidth=1.8, **QUIET).encode(detail=altair.Detail("family:N"), strokeDash=DASH),
        finite.mark_point(filled=True, size=60, opacity=1).encode(shape=shape, description=TIP),
    ]
    for series, aside in ((TOUCHED, -8), (INTACT, 8)):
        off_scale = base.transform_filter(f"!datum.finite && datum.series == '{series}'")
        layers.append(
            off_scale.mark_point(
                filled=True, size=90, opacity=1, shape="triangle-up", xOffset=aside, yOffset=5
            ).encode(y=at_top(), description=TIP)
        )
    return finish(layers, rows, layout, words, width=layout.width, height=HEIGHT, autosize=FIT)


def _describe_layer(point: LayerPoint, names: Mapping[str, str]) -> str:
    return f"Layer {point.layer}, {names[point.series].lower()}: {format_number(point.value)}"
