"""Around the super weights: the part of the down-projection that each lies in, beside the parent's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sw_audit.record.maps import Neighbourhood
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Table, figures, make_table, text
from sw_audit_reports.plots import Panel, describe_cells, plot_heat
from sw_audit_reports.sections import Context, section
from sw_audit_reports.sections.descent import THE_PARENT, THIS_MODEL
from sw_audit_reports.sections.effect import AS_IT_IS
from sw_audit_reports.text import format_finite, format_number
from sw_audit_reports.theme import make_chart

_MOST, _LISTED = 6, 8


@section("neighbourhood", title="Around the super weights", order=68)
def show_neighbourhoods(context: Context) -> Iterator[Chart]:
    """Draw the weights around each super weight, and say how large it is among all of its matrix."""
    descent = context.result.descent
    shown: list[Mapping[str, Neighbourhood]] = [{AS_IT_IS: around} for around in context.result.neighbourhoods]
    for kept in () if descent is None else descent.super_weights:
        if kept.parent_neighbourhood is not None and kept.neighbourhood is not None:
            shown.append({THE_PARENT: kept.parent_neighbourhood, THIS_MODEL: kept.neighbourhood})
    for number, sides in enumerate(shown[:_MOST], start=1):
        yield _show(sides, f"{context.anchor}-neighbourhood-{number}")


def _show(sides: Mapping[str, Neighbourhood], id: str) -> Chart:  # noqa: A002
    first = next(iter(sides.values()))
    address = first.address
    lines = [f"row {first.first_row + place}" for place in range(len(first.values))]
    columns = [first.first_column + place for place in range(len(first.values[0]))]
    framed = (address.row - first.first_row, address.column - first.first_column)
    panels = [
        Panel(
            name,
            lines,
            [[None if value is None else abs(value) for value in row] for row in around.values],
            [framed],
        )
        for name, around in sides.items()
    ]
    plot, rows = plot_heat(panels, columns, "Column", theme.INTACT)
    title = f"Magnitudes around {address}"
    return make_chart(id, title, [*_summarize(sides), *describe_cells(panels)], plot, rows, _tabulate(sides))


def read_scalar(around: Neighbourhood) -> float | None:
    """Return the value of the scalar that a neighbourhood is of."""
    address = around.address
    return around.values[address.row - around.first_row][address.column - around.first_column]


def list_neighbours(around: Neighbourhood) -> list[tuple[float, int, int]]:
    """List all that is shown but the scalar itself, with row and column, the largest magnitude first."""
    cells = [
        (value, row, column)
        for row, line in enumerate(around.values, around.first_row)
        for column, value in enumerate(line, around.first_column)
        if value is not None and (row, column) != (around.address.row, around.address.column)
    ]
    return sorted(cells, key=lambda cell: -abs(cell[0]))


def _summarize(sides: Mapping[str, Neighbourhood]) -> Iterator[str]:
    yield "The stronger the colour, the larger the magnitude, on a logarithmic scale. The super weight is framed."
    for name, around in sides.items():
        neighbours = list_neighbours(around)
        rest = f"; the largest beside it here is {format_number(neighbours[0][0])}" if neighbours else ""
        yield f"{name}: {format_finite(read_scalar(around))}{_describe_rank(around)}{rest}."


def _describe_rank(around: Neighbourhood) -> str:
    size = around.rows * around.columns
    if around.rank is None:
        return ""
    if around.rank == 1:
        return f", by magnitude the largest of the {format_number(size)} weights of its matrix"
    place, part = format_number(around.rank), format_number(100 * around.rank / size, 2)
    return f", by magnitude number {place} of the {format_number(size)} weights of its matrix (the top {part} %)"


def _tabulate(sides: Mapping[str, Neighbourhood]) -> Table | None:
    rows = []
    for name, around in sides.items():
        scalar = (read_scalar(around), around.address.row, around.address.column)
        for value, row, column in (scalar, *list_neighbours(around)[: _LISTED - 1]):
            rows.append((name, row, column, format_finite(value)))
    return make_table("The largest weights shown", [*text("Model"), *figures("Row", "Column", "Value")], rows)
