"""The chart of arms: one row per condition, with its perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair

from sw_audit_reports.canvas import (
    INK,
    LAYOUTS,
    QUIET,
    RULE,
    TIP,
    Layout,
    Rows,
    Words,
    at_x,
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
from sw_audit_reports.scales import LogAxis, fit_log_axis
from sw_audit_reports.series import ArmRow
from sw_audit_reports.text import NOT_FINITE, format_number


def draw_arms(rows: Sequence[ArmRow], baseline: float | None, words: Words) -> tuple[Drawing, ...]:
    """Draw the perplexity of every arm, with intervals where they are known, on a logarithmic axis.

    A perplexity that is not finite is a triangle at the right edge.

    Args:
        rows: The arms, grouped, one at least.
        baseline: Perplexity of the model as it is, drawn as a line.
        words: What the chart is called.
    """
    ends = [end for row in rows for point in row.points for end in list_ends(point)]
    axis = fit_log_axis(ends or [1.0, 10.0])
    data: dict[str, Rows] = {"heads": [], "lines": [], "points": [], "baseline": []}
    for place, row in enumerate(entries := _with_heads(rows)):
        key = f"{place:03d}"
        if isinstance(row, str):
            data["heads"].append({"key": key, "label": row})
            continue
        data["lines"].append({"key": key, "label": row.label, "figure": _name_figures(row)})
        data["points"] += [
            {
                "key": key,
                "series": row.series,
                "tip": f"{row.label}: {describe_point(point)}",
                **place_point(point),
            }
            for point in row.points
        ]
    data["baseline"] = [{"baseline": baseline}] if baseline else []
    keys = [f"{place:03d}" for place in range(len(entries))]
    return tuple(_draw_arm_layout(layout, axis, keys, data, words) for layout in LAYOUTS)


def _draw_arm_layout(
    layout: Layout, axis: LogAxis, keys: list[str], data: dict[str, Rows], words: Words
) -> Drawing:
    # Labels are drawn as marks in a margin of fixed width: beside the rows, or above them on a phone.
    left, right, step, lift = (12, 12, 38, -15) if layout.narrow else (232, 132, 24, 0)
    width = layout.width - left - right
    colour, shape = code_series({}, layout)
    across = altair.X("value:Q", scale=scale_log(axis), axis=axis_log(axis, "Perplexity"))
    y = altair.Y("key:N", axis=None, scale=altair.Scale(domain=keys, paddingInner=0, paddingOuter=0))
    dots = read_rows("points").encode(y=y, color=colour)
    finite = dots.transform_filter("datum.finite").encode(x=across)
    names = at_x(0 if layout.narrow else 12 - left)
    figures = at_x(width if layout.narrow else width + right - 4)
    words_left: dict[str, Any] = {"align": "left", "color": INK, "dy": lift, **QUIET}
    heads, lines = read_rows("heads").encode(y=y), read_rows("lines").encode(y=y)
    layers = [
        finite.mark_rule(strokeWidth=2.2, **QUIET).encode(x=altair.X("low:Q"), x2=altair.X2("high:Q")),
        finite.mark_point(filled=True, size=56, opacity=1).encode(shape=shape, description=TIP),
        dots.transform_filter("!datum.finite")
        .mark_point(filled=True, size=90, opacity=1, shape="triangle-right", xOffset=-5)
        .encode(x=at_x(width), description=TIP),
        heads.mark_text(fontWeight="bold", **words_left).encode(x=names, text=altair.Text("label:N")),
        lines.mark_text(**words_left).encode(x=names, text=altair.Text("label:N")),
        lines.mark_text(**{**words_left, "align": "right"}).encode(x=figures, text=altair.Text("figure:N")),
    ]
    if not layout.narrow:
        layers.insert(0, read_rows("baseline").mark_rule(**RULE).encode(x=altair.X("baseline:Q")))
    padding = {"left": left, "right": right, "top": 8, "bottom": 44}
    frame = {"width": width, "height": step * len(keys), "padding": padding, "autosize": {"type": "none"}}
    return finish(layers, data, layout, words, **frame)


def _with_heads(rows: Sequence[ArmRow]) -> list[ArmRow | str]:
    entries: list[ArmRow | str] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if row.group and (before is None or before.group != row.group):
            entries.append(row.group)
        entries.append(row)
    return entries


def _name_figures(row: ArmRow) -> str:
    finite = [point.value for point in row.points if point.value is not None]
    if len(finite) < len(row.points):
        return NOT_FINITE
    shortest, longest = format_number(min(finite)), format_number(max(finite))
    return shortest if shortest == longest else f"{shortest} to {longest}"
