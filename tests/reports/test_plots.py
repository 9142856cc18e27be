"""Charts that several sections draw, at any depth and both widths."""

from __future__ import annotations

import re

import pytest
from support.sections import read_rows
from sw_audit_reports.plots import (
    CHANGED,
    ArmRow,
    Panel,
    describe_cells,
    plot_arms,
    plot_heat,
    plot_magnitudes,
    tabulate_layers,
)
from sw_audit_reports.sections.effect import AS_IT_IS
from sw_audit_reports.theme import INTACT, Rows, make_chart
from sw_audit_reports.verdicts import Estimate


def make_rows(layers: int) -> Rows:
    return [
        {"layer": layer, "value": 4.0 + layer, "series": AS_IT_IS, "tip": f"Layer {layer}"}
        for layer in range(layers)
    ]


@pytest.mark.parametrize("layers", [1, 8, 80])
def test_a_chart_of_any_depth_has_a_wide_and_a_narrow_drawing(layers: int) -> None:
    plot, data = plot_magnitudes(make_rows(layers), [], {AS_IT_IS: INTACT})
    chart = make_chart("a", "Title", "Description", plot, data)
    widths = {name: re.match(r'<svg width="(\d+)"', drawing) for name, drawing in chart.drawings.items()}
    assert {name: found and found[1] for name, found in widths.items()} == {"wide": "720", "narrow": "340"}
    ticks = re.findall(r">(\d+)</text>", chart.drawings["wide"])
    assert str(layers - 1) in ticks or layers == 80


def read_axis(*values: float) -> list[str]:
    """Read the labels of the logarithmic axis of these perplexities."""
    plot, data = plot_arms([ArmRow("", "an arm", CHANGED, [Estimate(value) for value in values])], None)
    drawing = make_chart("a", "Title", "Description", plot, data).drawings["wide"]
    labels = re.findall(r"<text[^>]*text-anchor=\"middle\"[^>]*>([^<]+)</text>", drawing)
    return [label for label in labels if label != "Perplexity"]


def test_a_logarithmic_axis_is_labelled_at_powers_of_ten_or_in_steps_of_one_two_five_or_evenly() -> None:
    assert read_axis(1.758, 2.2e7) == ["1", "100", "10,000", "1e+6"]
    assert read_axis(2.1, 180) == ["2", "5", "10", "20", "50", "100", "200"]
    assert read_axis(1.0, 1.2) == ["1", "1.05", "1.1", "1.15", "1.2"]


def test_a_figure_that_is_not_finite_is_a_triangle_at_the_edge() -> None:
    plot, data = plot_arms([ArmRow("", "an arm", CHANGED, [Estimate(), Estimate(2.0, 1.5, 2.5)])], 1.0)
    drawing = make_chart("a", "Title", "Description", plot, data).drawings["narrow"]
    assert "<title>an arm: not finite</title>" in drawing
    assert "<title>an arm: 2 [1.5, 2.5]</title>" in drawing
    assert ">not finite</text>" in drawing


def test_the_figures_of_each_layer_stand_in_a_column_per_series() -> None:
    rows = [*make_rows(2), {"layer": 1, "value": None, "series": "Other"}]
    table = tabulate_layers("Caption", rows, [AS_IT_IS, "Other"])
    assert read_rows(table) == [["0", "4", "-"], ["1", "5", "not finite"]]


def test_a_heat_map_draws_cells_of_one_shade_as_one_and_the_largest_darkest() -> None:
    panels = [Panel("before", ["a", "b"], [[1.0, 1.0, 100.0], [1.0, 10.0, None]], framed=[(0, 2)])]
    plot, rows = plot_heat(panels, [0, 5, 9], "Layer", INTACT, marked=[5, 7])
    assert [row["column"] for row in rows["marks"]] == [5]
    assert [(row["column"], round(row["value"], 9)) for row in rows["cells"] if row["finite"]] == [
        (0, 1.0),
        (5, 1.0),
        (0, 1.0),
        (5, 10.0),
        (9, 100.0),
    ]
    assert [row["column"] for row in rows["frames"]] == [9]
    assert list(describe_cells(panels)) == ["An empty frame marks what is not finite."]
    drawing = make_chart("a", "Title", "Description", plot, rows).drawings["wide"]
    cells = re.findall(rf'<path d="([^"]+)" fill="{INTACT.colour}" opacity="([\d.]+)"', drawing)
    cells = [(d.count("M"), float(opacity)) for d, opacity in cells if "v18h" in d]
    assert cells == [(3, 0.04), (1, pytest.approx(0.52, abs=0.02)), (1, 1.0)]


@pytest.mark.parametrize("magnitudes", [[[0.0, 0.0]], [[None, None]], [[3.0, 3.0]], [[1e-30, 1e30]]])
def test_a_heat_map_of_any_magnitudes_is_drawn(magnitudes: list[list[float | None]]) -> None:
    plot, rows = plot_heat([Panel("it", ["row"], magnitudes)], [0, 1], "Column", INTACT)
    drawings = make_chart("a", "Title", "Description", plot, rows).drawings
    assert not re.search("nan|inf", "".join(drawings.values()), re.IGNORECASE)


def test_what_is_under_a_thousandth_of_the_largest_is_drawn_alike_and_that_is_said() -> None:
    panels = [Panel("it", ["row"], [[1000.0, 1.0, 0.5, 0.0]])]
    _, rows = plot_heat(panels, [0, 1, 2, 3], "Column", INTACT)
    assert [row["value"] for row in rows["cells"]] == pytest.approx([1.0, 1.0, 1.0, 1000.0])
    assert list(describe_cells(panels)) == ["All below 1 are drawn alike."]


def test_a_heat_map_of_the_most_cells_is_not_large() -> None:
    magnitudes = [[1.0 + (7 * row + 13 * column) % 101 for column in range(96)] for row in range(64)]
    panels = [Panel(name, [str(row) for row in range(64)], magnitudes) for name in ("before", "after")]
    plot, rows = plot_heat(panels, range(96), "Layer", INTACT)
    drawings = make_chart("a", "Title", "Description", plot, rows).drawings
    assert sum(map(len, drawings.values())) < 600_000
