"""Plots that several sections draw: lines over the layers, what is off the scale, and a row for each arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import altair

from sw_audit_reports import theme
from sw_audit_reports.elements import Table, figures, make_table
from sw_audit_reports.text import NOT_FINITE, NOTHING, format_finite, format_number, format_range
from sw_audit_reports.theme import Layers, Layout, Plot, Rows, Style, read_rows
from sw_audit_reports.verdicts import Estimate

OFF_SCALE = "A triangle at the edge marks a perplexity that is not finite."
CHANGED, UNCHANGED = "changed", "as they were"
_SHADES, _FAINTEST, _WIDEST = 24, 0.04, 72
_REACH = 1000.0
"""The largest magnitude of a heat map over the one from which on all are drawn alike."""


def place_on_layer(
    layer: int, series: str, value: float | None, name: str, write: Callable[[Any], str] = format_number
) -> dict[str, Any]:
    """Return the row of a figure of one layer; its tooltip calls the series by `name`."""
    return {"layer": layer, "value": value, "series": series, "tip": f"Layer {layer}, {name}: {write(value)}"}


def trace_layers(name: str, rows: Rows, up: altair.Y, series: Mapping[str, Style]) -> list[altair.Chart]:
    """Draw a line with points over the layers for each series; what is not finite is a triangle above.

    Args:
        name: Name of the rows, with the columns `layer`, `value`, `series` and `tip`, and `finite` if that can be.
        rows: The rows, one at least.
        up: The upright axis.
        series: The style of each series.
    """
    last = round(max(row["layer"] for row in rows))
    colour, shape = theme.encode_series(series)
    base = read_rows(name).encode(x=theme.across_layers(last), color=colour)
    finite = base.transform_filter("datum.finite !== false").encode(y=up)
    layers = [
        finite.mark_line().encode(strokeDash=theme.encode_dash(series)),
        finite.mark_point(size=theme.size_points(last)).encode(shape=shape),
    ]
    return layers if all(row.get("finite", True) for row in rows) else [*layers, mark_off_scale(base)]


def mark_off_scale(base: altair.Chart, aside: float = 0) -> altair.Chart:
    """Draw what is not finite as triangles at the upper edge.

    Args:
        base: A layer on rows with the column `finite`.
        aside: Pixels to the right, where two series would hide each other.
    """
    triangles = base.transform_filter("!datum.finite").encode(y=theme.at_top())
    layer: altair.Chart = triangles.mark_point(size=90, shape="triangle-up", xOffset=aside, yOffset=5)
    return layer


def refer(value: float) -> altair.Chart:
    """Draw a dotted line across the plot, for one value of the upright axis."""
    line: altair.Chart = altair.Chart(altair.InlineData(values=[{}])).mark_rule(**theme.REFERENCE)
    return line.encode(y=altair.datum(value))


def plot_magnitudes(
    rows: Rows, marked: Iterable[int], series: Mapping[str, Style], reach: Sequence[float] = ()
) -> tuple[Layers, dict[str, Rows]]:
    """Plot magnitudes of activations per layer on a logarithmic axis; spikes have open points and no line.

    Args:
        rows: Magnitudes, one at least.
        marked: The layers of the super weights, drawn as lines.
        series: The style of each series.
        reach: Further magnitudes that the axis covers.
    """
    data = {
        "stream": [row for row in rows if series[row["series"]] is not theme.SPIKE],
        "spikes": [row for row in rows if series[row["series"]] is theme.SPIKE],
        "marks": [{"layer": layer, "label": "super weight"} for layer in sorted(set(marked))],
    }
    last = max(row["layer"] for row in rows)
    up = altair.Y("value:Q", scale=theme.scale_log(reach), axis=theme.axis_log())
    colour, shape = theme.encode_series(series)
    rule = read_rows("marks").encode(x=altair.X("layer:Q"))
    name = rule.mark_text(color=theme.MUTED, align="left", dx=-4, dy=-4, baseline="bottom")
    layers = [
        rule.mark_rule(**theme.REFERENCE),
        name.encode(y=theme.at_top(), text="label:N"),
        *trace_layers("stream", data["stream"] or rows, up, series),
    ]
    if data["spikes"]:
        # Open, so that a spike that coincides with what it makes hides nothing.
        spikes = read_rows("spikes").encode(x=theme.across_layers(last), y=up, color=colour, shape=shape)
        layers.append(spikes.mark_point(filled=False, size=1.6 * theme.size_points(last), strokeWidth=1.6))
    return layers, data


def tabulate_layers(
    caption: str, rows: Rows, names: Iterable[str], write: Callable[[float], str] = format_number
) -> Table | None:
    """List the figures of each layer, a column for each series; `None` is not finite."""
    written = {(row["layer"], row["series"]): format_finite(row["value"], write) for row in rows}
    layers = sorted({row["layer"] for row in rows})
    listed = [[layer, *(written.get((layer, name), NOTHING) for name in names)] for layer in layers]
    return make_table(caption, figures("Layer", *names), listed)


@dataclass
class ArmRow:
    """One row of a chart of figures: an arm, or several that share a label, or a check.

    Attributes:
        group: Heading that it stands under; none for the model as it is.
        label: What it is called.
        series: Which style it has; of an arm `CHANGED` or `UNCHANGED`, whether super weights are changed.
        points: Its figures, above 0.
        figure: What is written beside it; `None` for from where to where its figures reach.
    """

    group: str
    label: str
    series: str = UNCHANGED
    points: list[Estimate] = field(default_factory=list)
    figure: str | None = None


@dataclass(frozen=True)
class RowsLook:
    """How a chart of figures row by row looks.

    Attributes:
        title: What the figures are.
        series: The styles of its rows.
        left: Pixels for the labels where these stand beside the rows.
        right: Pixels for what is written beside the rows.
        reach: The ends of the axis, beyond which a figure is a triangle at the edge; `None` for all figures.
    """

    title: str
    series: Mapping[str, Style]
    left: int = 232
    right: int = 132
    reach: tuple[float, float] | None = None


PERPLEXITIES = RowsLook("Perplexity", {UNCHANGED: theme.INTACT, CHANGED: theme.TOUCHED})


def plot_arms(
    arms: Sequence[ArmRow], baseline: float | None, look: RowsLook = PERPLEXITIES
) -> tuple[Plot, dict[str, Rows]]:
    """Plot a figure of every row, with intervals where they are known, on a logarithmic axis.

    A figure that is not finite is a triangle at the right edge.

    Args:
        arms: The rows, grouped, one at least.
        baseline: Perplexity of the model as it is, or the limit, drawn as a line.
        look: How it looks.
    """
    rows: dict[str, Rows] = {"heads": [], "lines": [], "points": []}
    rows["baseline"] = [{"baseline": baseline}] if baseline else []
    keys: list[str] = []
    group = ""
    for arm in arms:
        if arm.group != group:
            group = arm.group
            keys.append(f"{len(keys):03d}")
            rows["heads"].append({"key": keys[-1], "label": group})
        keys.append(f"{len(keys):03d}")
        finite = [point.value for point in arm.points if point.value is not None]
        written = format_range(finite) if len(finite) == len(arm.points) else NOT_FINITE
        rows["lines"].append({"key": keys[-1], "label": arm.label, "figure": arm.figure or written})
        for point in arm.points:
            row = _limit_row(theme.place(arm.label, *point), look.reach)
            rows["points"].append({"key": keys[-1], "series": arm.series, **row})
    return (lambda layout: _lay_out_arms(layout, keys, look)), rows


def _limit_row(row: dict[str, Any], reach: tuple[float, float] | None) -> dict[str, Any]:
    """Say at which edge of the plot a figure stands that is beyond it, and end its interval there."""
    value = row["value"]
    if value is None or reach is None:
        return {**row, "edge": "right" if value is None else ""}
    low, high = (min(max(row[end], reach[0]), reach[1]) for end in ("low", "high"))
    edge = "right" if value > reach[1] else "left" if value < reach[0] else ""
    return {**row, "low": low, "high": high, "edge": edge}


def _lay_out_arms(layout: Layout, keys: Sequence[str], look: RowsLook) -> tuple[Layers, dict[str, Any]]:
    # Labels are drawn as marks in a margin of fixed width: beside the rows, or above them on a phone.
    left, right, step, lift = (12, 12, 38, -15) if layout.narrow else (look.left, look.right, 24, 0)
    width = layout.width - left - right
    colour, shape = theme.encode_series(look.series, legend=False)
    scale = (
        theme.scale_log() if look.reach is None else altair.Scale(type="log", domain=list(look.reach), nice=False)
    )
    across = altair.X("value:Q", scale=scale, axis=theme.axis_log(look.title))
    y = altair.Y("key:N", axis=None, scale=altair.Scale(domain=keys, paddingInner=0, paddingOuter=0))
    dots = read_rows("points").encode(y=y, color=colour)
    finite = dots.transform_filter("datum.finite").encode(x=across)
    beyond = dots.transform_filter("datum.edge == 'right'").mark_point(size=90, shape="triangle-right", xOffset=-5)
    names = theme.at_x(0 if layout.narrow else 12 - left)
    values = theme.at_x(width if layout.narrow else width + right - 4)
    heads, lines = read_rows("heads").encode(y=y), read_rows("lines").encode(y=y)
    layers = [
        finite.mark_rule().encode(x=altair.X("low:Q"), x2=altair.X2("high:Q")),
        finite.transform_filter("!datum.edge").mark_point().encode(shape=shape),
        beyond.encode(x=theme.at_x(width)),
        heads.mark_text(align="left", dy=lift, fontWeight="bold").encode(x=names, text="label:N"),
        lines.mark_text(align="left", dy=lift).encode(x=names, text="label:N"),
        lines.mark_text(align="right", dy=lift).encode(x=values, text="figure:N"),
    ]
    if look.reach is not None:
        below = dots.transform_filter("datum.edge == 'left'").mark_point(size=90, shape="triangle-left", xOffset=5)
        layers.append(below.encode(x=theme.at_x(0)))
    if not layout.narrow or look.reach is not None:
        reference = read_rows("baseline").mark_rule(**theme.REFERENCE).encode(x=altair.X("baseline:Q"))
        layers.insert(0, reference)
    padding = {"left": left, "right": right, "top": 8, "bottom": 44}
    return layers, {"width": width, "height": step * len(keys), "padding": padding, "autosize": {"type": "none"}}


class Panel(NamedTuple):
    """One of the panels of a heat map, one above the other.

    Attributes:
        title: What it shows.
        lines: What each row is called.
        magnitudes: By row and column; `None` is not finite.
        framed: Row and column of each cell to be pointed out.
    """

    title: str
    lines: Sequence[str]
    magnitudes: Sequence[Sequence[float | None]]
    framed: Sequence[tuple[int, int]] = ()


def plot_heat(
    panels: Sequence[Panel], columns: Sequence[int], across: str, style: Style, marked: Sequence[int] = ()
) -> tuple[Plot, dict[str, Rows]]:
    """Plot magnitudes as cells, the larger the stronger their colour, on one logarithmic scale for all panels.

    What is not finite is an empty frame.

    Args:
        panels: What is shown, of as many columns each.
        columns: What each column is called.
        across: What columns are.
        style: Whose colour it is.
        marked: Columns through which a line is drawn.
    """
    rows: dict[str, Rows] = {"heads": [], "lines": [], "cells": [], "frames": [], "marks": []}
    low, high = _fit_shades(panels)
    span = math.log(high / low)
    keys: list[str] = []
    for panel in panels:
        keys.append(f"{len(keys):03d}")
        rows["heads"].append({"key": keys[-1], "label": panel.title})
        for row, (line, magnitudes) in enumerate(zip(panel.lines, panel.magnitudes, strict=True)):
            keys.append(f"{len(keys):03d}")
            rows["lines"].append({"key": keys[-1], "label": line})
            for column, value in zip(columns, magnitudes, strict=True):
                # So many shades can be told apart; cells of one shade are drawn as one.
                shade = round(_SHADES * math.log(max(value or low, low) / low) / span) / _SHADES
                place = {"key": keys[-1], "column": column, "finite": value is not None}
                rows["cells"].append({**place, "value": low * math.exp(shade * span)})
            framed = [columns[column] for place, column in panel.framed if place == row]
            rows["frames"] += [{"key": keys[-1], "column": column} for column in framed]
    rows["cells"].sort(key=lambda cell: float(cell["value"]))
    rows["marks"] = [
        {"column": column, "key": keys[0], "label": ""} for column in sorted(set(marked) & {*columns})
    ]
    if rows["marks"]:
        rows["marks"][-1]["label"] = "super weight"
    return (lambda layout: _lay_out_heat(layout, keys, columns, across, style, (low, high))), rows


def _fit_shades(panels: Iterable[Panel]) -> tuple[float, float]:
    every = [value for panel in panels for line in panel.magnitudes for value in line if value]
    high = max(every, default=1.0)
    return min(max(min(every, default=1.0), high / _REACH), high / 2), high


def describe_cells(panels: Sequence[Panel]) -> Iterator[str]:
    """Say what the cells of a heat map mean, as far as there are any such."""
    low, _ = _fit_shades(panels)
    every = [value for panel in panels for line in panel.magnitudes for value in line]
    if any(value is not None and value < low for value in every):
        yield f"All below {format_number(low, 2)} are drawn alike."
    if None in every:
        yield "An empty frame marks what is not finite."


def _lay_out_heat(
    layout: Layout,
    keys: Sequence[str],
    columns: Sequence[int],
    across: str,
    style: Style,
    reach: tuple[float, float],
) -> tuple[Layers, dict[str, Any]]:
    left, right, top, bottom = 96, 12, 34, 44
    # Whole pixels, of which fewer digits are written.
    width = len(columns) * max(1, min(_WIDEST, (layout.width - left - right) // len(columns)))
    step = max(7, min(18, 620 // len(keys)))
    fits = max(1, width // 28)
    ticks = columns[:: math.ceil(len(columns) / fits)]
    axis = altair.Axis(title=across, values=list(ticks), labelAngle=0, domain=False, ticks=False)
    x = altair.X("column:O", scale=altair.Scale(domain=list(columns), paddingInner=0, paddingOuter=0), axis=axis)
    y = altair.Y("key:N", axis=None, scale=altair.Scale(domain=list(keys), paddingInner=0, paddingOuter=0))
    low, high = reach
    legend = altair.Legend(
        values=[low * (high / low) ** (part / 3) for part in range(4)],
        offset=10,
        columns=4,
        columnPadding=14,
        symbolType="square",
        symbolSize=160,
        symbolFillColor=style.colour,
        labelExpr="format(datum.value, datum.value >= 1e5 || datum.value < 1e-3 ? '.1~e' : ',.2~r')",
    )
    scale = altair.Scale(type="log", domain=[low, high], range=[_FAINTEST, 1])
    shade = altair.Opacity("value:Q", scale=scale, legend=legend)
    cells = read_rows("cells").encode(x=x, y=y)
    heads, lines = read_rows("heads").encode(y=y), read_rows("lines").encode(y=y)
    marks = read_rows("marks").encode(x=x)
    lifted = 1 if step < 13 else 0
    layers = [
        cells.transform_filter("datum.finite").mark_rect(color=style.colour).encode(opacity=shade),
        cells.transform_filter("!datum.finite").mark_rect(filled=False, stroke=theme.MUTED, strokeWidth=0.5),
        read_rows("frames").mark_rect(filled=False, stroke=theme.TOUCHED.colour, strokeWidth=2.5).encode(x=x, y=y),
        marks.mark_rule(**theme.REFERENCE),
        marks.mark_text(color=theme.MUTED, align="left", dx=5).encode(y=y, text="label:N"),
        heads.mark_text(align="left", fontWeight="bold").encode(x=theme.at_x(-left + 8), text="label:N"),
        lines.mark_text(align="right", limit=left - 16, fontSize=min(12, step + lifted)).encode(
            x=theme.at_x(-8), text="label:N"
        ),
    ]
    padding = {"left": left, "right": right, "top": top, "bottom": bottom}
    return layers, {"width": width, "height": step * len(keys), "padding": padding, "autosize": {"type": "none"}}
