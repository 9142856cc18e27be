"""How the command line shows models and verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sw_audit.record.record import Record
from sw_audit.record.verdict import Verdict
from sw_audit.runner.explain import TABLE_HEAD, make_row, name_outcome

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "skipped": "dim", "waived": "yellow"}
_PLAIN_WIDTH = 120
"""Columns of the table where the output is no terminal, so that a log holds whole lines."""


def make_console() -> Console:
    """Return the console of standard output."""
    width = None if Console().is_terminal else _PLAIN_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_models(console: Console, record: Record) -> None:
    """Print what each model is, where its super weights are, and how its figures were measured."""
    for result in record.results:
        model, location = result.model, result.location
        console.print(Text(f"{model.id}", style="bold"), end="")
        console.print(
            Text(f"  {model.family}, {model.layers} layers, {model.parameters:,} parameters, {model.digest[:12]}")
        )
        for weight in location.super_weights:
            console.print(Text(f"  super weight {weight.address} = {weight.value:.4g}, share {weight.share:.3f}"))
        if not location.super_weights:
            console.print(Text(f"  no super weight: {location.outcome}, {location.because}"))
        console.print(Text(f"  protocol {result.protocol}"))
        for note in result.notes:
            console.print(Text(f"  note: {note}"))


def tabulate(verdicts: Sequence[Verdict], *, verbose: bool) -> Table:
    """Lay the verdicts out as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in TABLE_HEAD:
        table.add_column(title, no_wrap=not (verbose and title.startswith("observed")))
    if verbose:
        table.add_column("because")
    for verdict in verdicts:
        row = [*make_row(verdict), *([verdict.because] if verbose else [])]
        style = _STYLES[name_outcome(verdict)]
        table.add_row(*(Text(cell, style=style if place == 2 else "") for place, cell in enumerate(row)))
    return table
