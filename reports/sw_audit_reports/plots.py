"""Plots that several sections draw: lines over the layers, what is off the scale, and a row for each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import altair

from sw_audit_reports.elements import Table, figures, make_table
from sw_audit_reports.estimates import Estimate
from sw_audit_reports.text import NOT_FINITE, NOTHING, format_finite, format_number, format_range
from sw_audit_reports.theme import (
    INTACT,
    MUTED,
    REFERENCE,
    SPIKE,
    TOUCHED,
    Layers,
    Layout,
    Plot,
    Rows,
    Style,
    across_layers,
    at_top,
    at_x,
    axis_log,
    describe,
    encode_dash,
    encode_series,
    place,
    read_rows,
    scale_log,
    size_points,
)

OFF_SCALE = "A triangle at the edge marks a perplexity that is not finite."
CHANGED, UNCHANGED = "changed", "as they were"


class HasLayer(Protocol):
    """A super weight, here or in the parent."""

    @property
    def layer(self) -> int:
        """Its decoder layer."""


def trace_layers(name: str, rows: Rows, up: altair.Y, series: Mapping[str, Style]) -> list[altair.Chart]:
    """Draw a line with points over the layers for each series; what is not finite is a triangle above.

    Args:
        name: Name of the rows, with the columns `layer`, `value`, `series` and `tip`, and `finite` if that can be.
        rows: The rows, one at least.
        up: The upright axis.
        series: The style of each series.
    """
    last = round(max(row["layer"] for row in rows))
    colour, shape = encode_series(series)
    base = read_rows(name).encode(x=across_layers(last), color=colour)
    finite = base.transform_filter("datum.finite !== false").encode(y=up)
    layers = [
        finite.mark_line().encode(strokeDash=encode_dash(series)),
        finite.mark_point(size=size_points(last)).encode(shape=shape),
    ]
    return layers if all(row.get("finite", True) for row in rows) else [*layers, mark_off_scale(base)]


def mark_off_scale(base: altair.Chart, aside: float = 0) -> altair.Chart:
    """Draw what is not finite as triangles at the upper edge.

    Args:
        base: A layer on rows with the column `finite`.
        aside: Pixels to the right, where two series would hide each other.
    """
    triangles = base.transform_filter("!datum.finite").encode(y=at_top())
    layer: altair.Chart = triangles.mark_point(size=90, shape="triangle-up", xOffset=aside, yOffset=5)
    return layer


def refer(value: float) -> altair.Chart:
    """Draw a dotted line across the plot, for one value of the upright axis."""
    line: altair.Chart = altair.Chart(altair.InlineData(values=[{}])).mark_rule(**REFERENCE)
    return line.encode(y=altair.datum(value))


def plot_magnitudes(
    rows: Rows, marked: Iterable[HasLayer], series: Mapping[str, Style], reach: Sequence[float] = ()
) -> tuple[Layers, dict[str, Rows]]:
    """Plot magnitudes of activations per layer on a logarithmic axis; spikes have open points and no line.

    Args:
        rows: Magnitudes, one at least.
        marked: The super weights, whose layers are drawn as lines.
        series: The style of each series.
        reach: Further magnitudes that the axis covers.
    """
    data = {
        "stream": [row for row in rows if series[row["series"]] is not SPIKE],
        "spikes": [row for row in rows if series[row["series"]] is SPIKE],
        "marks": [{"layer": layer, "label": "super weight"} for layer in sorted({one.layer for one in marked})],
    }
    last = max(row["layer"] for row in rows)
    up = altair.Y("value:Q", scale=scale_log(reach), axis=axis_log())
    colour, shape = encode_series(series)
    rule = read_rows("marks").encode(x=altair.X("layer:Q"))
    layers = [
        rule.mark_rule(**REFERENCE),
        rule.mark_text(color=MUTED, align="left", dx=-4, dy=-4, baseline="bottom").encode(
            y=at_top(), text="label:N"
        ),
        *trace_layers("stream", data["stream"] or rows, up, series),
    ]
    if data["spikes"]:
        # Open, so that a spike that coincides with what it makes hides nothing.
        spikes = read_rows("spikes").encode(x=across_layers(last), y=up, color=colour, shape=shape)
        layers.append(spikes.mark_point(filled=False, size=1.6 * size_points(last), strokeWidth=1.6))
    return layers, data


def tabulate_layers(
    caption: str, rows: Rows, names: Iterable[str], write: Callable[[float], str] = format_number
) -> Table | None:
    """List the figures of each layer, a column for each series; `None` is not finite."""
    values = {(row["layer"], row["series"]): row["value"] for row in rows}
    listed = [
        [
            format_number(layer),
            *(format_finite(values[layer, name], write) if (layer, name) in values else NOTHING for name in names),
        ]
        for layer in sorted({row["layer"] for row in rows})
    ]
    return make_table(caption, figures("Layer", *names), listed)


@dataclass
class ArmRow:
    """One row of the chart of arms: an arm, or several that share a label.

    Attributes:
        group: Heading that it stands under; none for the model as it is.
        label: What it is called.
        series: `CHANGED` or `UNCHANGED`: whether super weights are changed.
        points: Perplexities.
    """

    group: str
    label: str
    series: str = UNCHANGED
    points: list[Estimate] = field(default_factory=list)


def plot_arms(arms: Sequence[ArmRow], baseline: float | None) -> tuple[Plot, dict[str, Rows]]:
    """Plot the perplexity of every arm, with intervals where they are known, on a logarithmic axis.

    A perplexity that is not finite is a triangle at the right edge.

    Args:
        arms: The rows, grouped, one at least.
        baseline: Perplexity of the model as it is, drawn as a line.
    """
    rows: dict[str, Rows] = {
        "heads": [],
        "lines": [],
        "points": [],
        "baseline": [{"baseline": baseline}] if baseline else [],
    }
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
        rows["lines"].append({"key": keys[-1], "label": arm.label, "figure": written})
        rows["points"] += [
            {"key": keys[-1], "series": arm.series, "tip": f"{arm.label}: {describe(*point)}", **place(*point)}
            for point in arm.points
        ]
    return (lambda layout: _lay_out_arms(layout, keys)), rows


def _lay_out_arms(layout: Layout, keys: Sequence[str]) -> tuple[Layers, dict[str, Any]]:
    # Labels are drawn as marks in a margin of fixed width: beside the rows, or above them on a phone.
    left, right, step, lift = (12, 12, 38, -15) if layout.narrow else (232, 132, 24, 0)
    width = layout.width - left - right
    colour, shape = encode_series({UNCHANGED: INTACT, CHANGED: TOUCHED}, legend=False)
    across = altair.X("value:Q", scale=scale_log(), axis=axis_log("Perplexity"))
    y = altair.Y("key:N", axis=None, scale=altair.Scale(domain=keys, paddingInner=0, paddingOuter=0))
    dots = read_rows("points").encode(y=y, color=colour)
    finite = dots.transform_filter("datum.finite").encode(x=across)
    names = at_x(0 if layout.narrow else 12 - left)
    values = at_x(width if layout.narrow else width + right - 4)
    heads, lines = read_rows("heads").encode(y=y), read_rows("lines").encode(y=y)
    layers = [
        finite.mark_rule().encode(x=altair.X("low:Q"), x2=altair.X2("high:Q")),
        finite.mark_point().encode(shape=shape),
        dots.transform_filter("!datum.finite")
        .mark_point(size=90, shape="triangle-right", xOffset=-5)
        .encode(x=at_x(width)),
        heads.mark_text(align="left", dy=lift, fontWeight="bold").encode(x=names, text="label:N"),
        lines.mark_text(align="left", dy=lift).encode(x=names, text="label:N"),
        lines.mark_text(align="right", dy=lift).encode(x=values, text="figure:N"),
    ]
    if not layout.narrow:
        reference = read_rows("baseline").mark_rule(**REFERENCE).encode(x=altair.X("baseline:Q"))
        layers.insert(0, reference)
    padding = {"left": left, "right": right, "top": 8, "bottom": 44}
    return layers, {"width": width, "height": step * len(keys), "padding": padding, "autosize": {"type": "none"}}
