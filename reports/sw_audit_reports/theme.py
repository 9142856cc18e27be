"""The look of the charts: one altair theme, three kinds of axis, and each chart drawn for two widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import altair

from sw_audit_reports.elements import Chart, Table
from sw_audit_reports.text import format_finite, format_interval
from sw_audit_reports.vector import draw_vector

# The style sheet maps these very values to custom properties, so that a dark page can change them.
INK, MUTED, GRID = "#1c2024", "#59616b", "#e2e5e9"
REFERENCE: dict[str, Any] = {"color": MUTED, "strokeDash": [2, 3], "strokeWidth": 1}
PUBLISHED: dict[str, Any] = {"color": MUTED, "strokeDash": [3, 3], "strokeWidth": 1.2}
HEIGHT = 250
Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Style:
    """How one series is drawn: told apart by colour, by shape, and by dashes where lines coincide."""

    colour: str
    shape: str
    dash: tuple[int, int] = (1, 0)


INTACT = Style("#1b5fa6", "circle")
TOUCHED = Style("#c0450f", "diamond", (7, 4))
SPIKE = Style("#6f42a5", "triangle-up")
ATTENTION = Style("#0e7267", "square")
STYLES = {"intact": INTACT, "touched": TOUCHED, "spike": SPIKE, "attention": ATTENTION}


@altair.theme.register("sw_audit", enable=False)
def theme() -> altair.theme.ThemeConfig:
    """Return what all charts have in common.

    Labels and lines say nothing to assistive software, which reads the whole chart as one image; points do, and
    their descriptions become tooltips.
    """
    quiet = {"aria": False}
    config: Any = {
        "font": "sans-serif",
        "background": "transparent",
        "view": {"stroke": None},
        "axis": {
            "gridColor": GRID,
            "tickColor": MUTED,
            "labelColor": MUTED,
            "labelFontSize": 12,
            "titleColor": MUTED,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
        },
        "axisX": {"grid": False},
        # The title of an upright axis stands flat above it.
        "axisY": {
            "domain": False,
            "ticks": False,
            "titleAngle": 0,
            "titleAlign": "left",
            "titleAnchor": "end",
            "titleBaseline": "bottom",
            "titleX": 0,
            "titleY": -9,
        },
        "legend": {
            "title": None,
            "orient": "top",
            "offset": 30,
            "labelFontSize": 12,
            "labelColor": INK,
            "labelLimit": 0,
            "columnPadding": 26,
            "rowPadding": 4,
            "symbolStrokeWidth": 0,
        },
        "line": {"strokeWidth": 1.8, **quiet},
        "rule": {"strokeWidth": 2, **quiet},
        "rect": quiet,
        "tick": {"color": INK, **quiet},
        "text": {"color": INK, "fontSize": 12, **quiet},
        "point": {"filled": True, "size": 60, "opacity": 1},
    }
    return {"config": config}


@dataclass(frozen=True)
class Layout:
    """A width in pixels that every chart is drawn for, everything included: for wide screens or for phones."""

    name: str
    width: int

    @property
    def narrow(self) -> bool:
        """Whether this is the layout for phones."""
        return self.name == "narrow"


LAYOUTS = (Layout("wide", 720), Layout("narrow", 340))
Layers: TypeAlias = Sequence[altair.Chart]
Plot: TypeAlias = Layers | Callable[[Layout], tuple[Layers, dict[str, Any]]]


def make_chart(
    id: str,  # noqa: A002 - the word of the page
    title: str,
    caption: str | Iterable[str],
    plot: Plot,
    rows: Mapping[str, Rows],
    table: Table | None = None,
) -> Chart:
    """Draw a chart for every width.

    Args:
        id: Prefix of its ids.
        title: What it shows.
        caption: What one sees in it: sentences.
        plot: Its layers, lowest first; or what makes them for a layout, with Vega-Lite's `width`, `height` and
            `padding`, where margins depend on the width.
        rows: What its layers read, by the name they were given to `read_rows`.
        table: The figures behind it.
    """
    words = caption if isinstance(caption, str) else " ".join(filter(None, caption))
    fit = {"height": HEIGHT, "autosize": {"type": "fit-x", "contains": "padding"}}
    fixed = {} if callable(plot) else specify(plot, fit)
    drawings = {}
    for layout in LAYOUTS:
        spec = specify(*plot(layout)) if callable(plot) else {**fixed, "width": layout.width}
        spec["datasets"] = {**spec.get("datasets", {}), **rows}
        # In one row where there is room.
        spec["config"]["legend"]["columns"] = 1 if layout.narrow else 0
        drawings[layout.name] = draw_vector(spec, id=f"{id}-{layout.name}", title=title, description=words)
    return Chart(id, title, words, drawings, table)


def specify(layers: Layers, frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Vega-Lite chart of layers in the theme; `frame` holds its width and the like."""
    with altair.theme.enable("sw_audit"):
        return {**altair.layer(*layers).to_dict(validate=False), **frame}


def read_rows(rows: str) -> altair.Chart:
    """Begin a layer on named rows, which `make_chart` puts in: altair would copy values at every step."""
    return altair.Chart(altair.NamedData(name=rows)).encode(description=altair.Description("tip:N"))


def encode_series(series: Mapping[str, Style], *, legend: bool = True) -> tuple[altair.Color, altair.Shape]:
    """Encode the column `series`, whose values name styles, by colour and by shape, with one legend for both."""
    look = altair.Legend() if legend else None
    colours = altair.Scale(domain=list(series), range=[style.colour for style in series.values()])
    shapes = altair.Scale(domain=list(series), range=[style.shape for style in series.values()])
    return altair.Color("series:N", scale=colours, legend=look), altair.Shape(
        "series:N", scale=shapes, legend=look
    )


def encode_dash(series: Mapping[str, Style]) -> altair.StrokeDash:
    """Encode the column `series` by dashes, for lines that may coincide."""
    scale = altair.Scale(domain=list(series), range=[list(style.dash) for style in series.values()])
    return altair.StrokeDash("series:N", scale=scale, legend=None)


def keep_seen(series: Mapping[str, Style], rows: Rows) -> dict[str, Style]:
    """Keep the series that the rows have, for a legend of nothing else."""
    seen = {row["series"] for row in rows}
    return {name: style for name, style in series.items() if name in seen}


def scale_log(reach: Sequence[float] = ()) -> altair.Scale:
    """Return a logarithmic scale that covers further values too, and leaves a little room beyond all of them."""
    domain = {"domain": {"unionWith": list(reach)}} if reach else {}
    return altair.Scale(type="log", nice=False, padding=14, **domain)


def axis_log(title: str | None = None) -> altair.Axis:
    """Return a logarithmic axis: of the ticks that Vega chooses, those at 1, 2 and 5 are labelled, and its own."""
    power = "pow(10, floor(log(datum.value) / LN10 + 1e-9))"
    shown = f"datum.label || indexof([1, 2, 5], round(datum.value / {power})) >= 0"
    number = "format(datum.value, datum.value >= 1e5 || datum.value < 1e-3 ? '.1~e' : ',.4~r')"
    return altair.Axis(
        title=title,
        tickCount=4,
        labelExpr=f"{shown} ? {number} : ''",
        labelOverlap=True,
        domain=False,
        ticks=False,
        grid=True,
        gridOpacity=altair.when(shown).then(altair.value(1)).otherwise(altair.value(0)),
    )


def axis_plain(title: str, labels: str = "format(datum.value, ',.4~r')") -> altair.Axis:
    """Return an upright axis of a plain scale."""
    return altair.Axis(title=title, tickCount=5, labelExpr=labels)


def across_layers(last: int) -> altair.X:
    """Return the axis of decoder layers, 0 to the last."""
    axis = altair.Axis(title="Decoder layer", tickCount=min(last + 1, 16), tickMinStep=1, format="d")
    return altair.X("layer:Q", scale=altair.Scale(domain=[-0.5, last + 0.5], nice=False), axis=axis)


def size_points(last: int) -> int:
    """Return the size of points, one per layer, that leaves them apart."""
    return 48 if last < 40 else 18


def at_top() -> altair.YValue:
    """Place a mark at the upper edge of the plot, whatever the scale."""
    return altair.YValue(0)  # type: ignore[no-untyped-call]  # altair's own classes are not annotated


def at_x(pixels: float) -> altair.XValue:
    """Place a mark so many pixels from the left edge of the plot, whatever the scale."""
    return altair.XValue(pixels)  # type: ignore[no-untyped-call]  # altair's own classes are not annotated


def place(name: str, value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Return the columns of a figure: its tooltip, and its interval, whose ends are the figure if it has none."""
    interval = format_interval(low, high) if value is not None else ""
    return {
        "value": value,
        "finite": value is not None,
        "low": value if low is None else low,
        "high": value if high is None else high,
        "tip": f"{name}: {format_finite(value)} {interval}".strip(),
    }
