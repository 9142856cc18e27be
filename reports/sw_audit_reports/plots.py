"""Plots that several sections draw: lines over the layers, what is off the scale, and a row for each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair

from sw_audit_reports import theme
from sw_audit_reports.elements import Table, figures, make_table
from sw_audit_reports.text import NOT_FINITE, NOTHING, format_finite, format_number, format_range
from sw_audit_reports.theme import Layers, Layout, Plot, Rows, Style, read_rows
from sw_audit_reports.verdicts import Estimate

OFF_SCALE = "A triangle at the edge marks a perplexity that is not finite."
CHANGED, UNCHANGED = "changed", "as they were"


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
