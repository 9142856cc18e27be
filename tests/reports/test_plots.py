"""Charts that several sections draw, at any depth and both widths."""

from __future__ import annotations

import re

import pytest
from support.sections import read_rows
from sw_audit_reports.plots import CHANGED, ArmRow, plot_arms, plot_magnitudes, tabulate_layers
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
