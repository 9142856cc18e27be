"""What the charts have in common: colours, shapes, logarithmic axes, two layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import altair

from sw_audit_reports.page import Drawing
from sw_audit_reports.scales import LogAxis
from sw_audit_reports.series import ATTENTION, INTACT, SPIKE, TOUCHED, Point
from sw_audit_reports.text import NOT_FINITE, format_interval, format_number
from sw_audit_reports.vector import draw_vector

# The style sheet maps these very values to custom properties, so that a dark page can change them.
INK, MUTED, GRID = "#1c2024", "#59616b", "#e2e5e9"
COLOURS = {INTACT: "#1b5fa6", TOUCHED: "#c0450f", SPIKE: "#6f42a5", ATTENTION: "#0e7267"}
SHAPES = {INTACT: "circle", TOUCHED: "diamond", SPIKE: "triangle-up", ATTENTION: "square"}
Rows: TypeAlias = list[dict[str, Any]]
_CONFIG = {
    "font": "sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "gridColor": GRID,
        "labelColor": MUTED,
        "labelFontSize": 12,
        "titleColor": MUTED,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    },
    "legend": {"labelFontSize": 12, "labelColor": INK, "columnPadding": 26, "rowPadding": 4},
    "text": {"fontSize": 12},
}
# Labels say nothing to assistive software, which reads the whole chart as one image.
QUIET: dict[str, Any] = {"aria": False}
RULE: dict[str, Any] = {"color": MUTED, "strokeDash": [2, 3], "aria": False}
TIP = altair.Description("tip:N")
# Dashed where super weights are changed, so that lines tell apart without colour, also where they coincide.
DASH = altair.StrokeDash(
    "series:N", legend=None, scale=altair.Scale(domain=[INTACT, TOUCHED], range=[[1, 0], [7, 4]])
)
# A title of an upright axis stands flat above it, where it can be read without turning one's head.
ABOVE: dict[str, Any] = {
    "titleAngle": 0,
    "titleAlign": "left",
    "titleAnchor": "end",
    "titleBaseline": "bottom",
    "titleX": 0,
    "titleY": -9,
}
HEIGHT = 250
FIT = {"type": "fit-x", "contains": "padding"}
_TICK = "datum.value >= 1e5 || datum.value < 1e-3 ? format(datum.value, '.1~e') : format(datum.value, ',.4~r')"


@dataclass(frozen=True)
class Words:
    """What a chart is called.

    Attributes:
        id: Prefix of its ids.
        title: What it shows.
        description: What one sees in it.
    """

    id: str
    title: str
    description: str


@dataclass(frozen=True)
class Layout:
    """A drawing for one kind of screen.

    Attributes:
        name: `wide` or `narrow`.
        width: Pixels, everything included.
    """

    name: str
    width: int

    @property
    def narrow(self) -> bool:
        """Whether this is the layout for phones."""
        return self.name == "narrow"


LAYOUTS = (Layout("wide", 720), Layout("narrow", 340))


def read_rows(rows: str) -> altair.Chart:
    """Begin a chart on named rows, which `finish` puts in: altair would copy values at every step."""
    return altair.Chart(altair.NamedData(name=rows))


def at_x(pixels: float) -> altair.XValue:
    """Place a mark so many pixels from the left edge of the plot, whatever the scale."""
    return altair.XValue(pixels)  # type: ignore[no-untyped-call]  # altair's own classes are not annotated


def at_top() -> altair.YValue:
    """Place a mark at the upper edge of the plot, whatever the scale."""
    return altair.YValue(0)  # type: ignore[no-untyped-call]  # altair's own classes are not annotated


def scale_log(axis: LogAxis) -> altair.Scale:
    """Return the logarithmic scale of an axis."""
    return altair.Scale(type="log", domain=[axis.low, axis.high], nice=False)


def axis_log(axis: LogAxis, title: str | None = None, **where: Any) -> altair.Axis:
    """Return a logarithmic axis with its own ticks; a title stands flat above or below it, never turned."""
    look: dict[str, Any] = {"domain": False, "ticks": False, "labelOverlap": True, **where}
    return altair.Axis(values=list(axis.ticks), labelExpr=_TICK, title=title, **look)


def axis_plain(title: str, labels: str = "format(datum.value, ',.4~r')") -> altair.Axis:
    """Return an upright axis of a plain scale, its title flat above it."""
    return altair.Axis(title=title, domain=False, ticks=False, tickCount=5, labelExpr=labels, **ABOVE)


def across_layers(last: int) -> altair.X:
    """Return the axis of decoder layers, 0 to the last, with ticks as many as fit."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if last / step <= 16 or step == 100)
    ticks = list(range(0, last + 1, step))
    axis = altair.Axis(title="Decoder layer", grid=False, values=ticks, format="d", tickColor=MUTED)
    return altair.X("layer:Q", scale=altair.Scale(domain=[-0.5, last + 0.5], nice=False), axis=axis)


def code_series(labels: dict[str, str], layout: Layout) -> tuple[altair.Color, altair.Shape]:
    """Tell series apart by colour and by shape, with one legend for both; without labels, no legend."""
    legend = None
    if labels:
        legend = altair.Legend(
            title=None,
            orient="top",
            offset=30,
            columns=1 if layout.narrow else len(labels),
            labelExpr=f"({labels})[datum.value]",
            labelLimit=0,
            symbolStrokeWidth=0,
        )
    names = list(labels) or list(COLOURS)
    colours = altair.Scale(domain=names, range=[COLOURS[name] for name in names])
    shapes = altair.Scale(domain=names, range=[SHAPES[name] for name in names])
    return (
        altair.Color("series:N", scale=colours, legend=legend),
        altair.Shape("series:N", scale=shapes, legend=legend),
    )


def finish(
    layers: list[altair.Chart], rows: dict[str, Rows], layout: Layout, words: Words, **frame: Any
) -> Drawing:
    """Lay charts over each other, set the look, put in the rows, and draw.

    Args:
        layers: The charts, lowest first.
        rows: What they read, by name.
        layout: For which screen.
        words: What the chart is called.
        **frame: Vega-Lite's `width`, `height`, `autosize` and `padding`.
    """
    spec = altair.layer(*layers).to_dict(validate=False)
    spec.update(frame, config=_CONFIG, datasets=rows)
    markup = draw_vector(spec, id=f"{words.id}-{layout.name}", title=words.title, description=words.description)
    return Drawing(layout.name, markup)


def place_point(point: Point) -> dict[str, Any]:
    """Turn a point into the columns that every chart reads; without an interval, its ends are the point."""
    low, high = (end if end is not None else point.value for end in (point.low, point.high))
    return {"value": point.value, "finite": point.value is not None, "low": low, "high": high}


def list_ends(point: Point) -> list[float]:
    """List what an axis must reach: the figure and the ends of its interval."""
    return [end for end in (point.value, point.low, point.high) if end is not None and end > 0]


def describe_point(point: Point) -> str:
    """Describe a point for its tooltip."""
    if point.value is None:
        return NOT_FINITE
    return f"{format_number(point.value)} {format_interval(point.low, point.high)}".strip()
