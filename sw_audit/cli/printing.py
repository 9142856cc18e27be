"""How the command line prints: lines, tables, one JSON object; and a record's models and verdicts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from sw_audit.checks.explain import MODELS_HEAD, TABLE_HEAD, describe_model, list_worst, make_row, name_outcome
from sw_audit.printable import printable, printable_json, printable_lines
from sw_audit.record.record import Record
from sw_audit.record.redaction import add_redactions, describe_redactions
from sw_audit.record.verdict import Verdict

BYTES = ("bytes", "KB", "MB", "GB", "TB")
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "skipped": "dim", "waived": "yellow"}
_STYLES |= {"holds": "green", "does not hold": "yellow", "undecided": "yellow"}
_PLAIN_WIDTH = 120
"""Columns of the table where the output is no terminal, so that a log holds whole lines."""
_LONGEST = 10_000
"""Characters of a line: more than any sentence has."""
_ENDLESS = 10_000
"""Columns: more than any table has."""


class Output(Console):
    """The console of standard output; what it is given stands there as it is."""

    def __init__(self, width: int | None = None) -> None:
        plain = None if Console().is_terminal else _PLAIN_WIDTH
        super().__init__(highlight=False, markup=False, emoji=False, width=width or plain)

    def print(self, *objects: Any, **form: Any) -> None:
        """Print, with every text made safe to show."""
        super().print(*map(_make_printable, objects), **form)

    def print_lines(self, *lines: str, style: str = "") -> None:
        """Print lines that are never broken, however long they are."""
        for line in lines:
            self.print(Text(printable(line, _LONGEST), style=style), soft_wrap=True)

    def print_files(self, files: Iterable[tuple[str, Path]]) -> None:
        """Print what was written, by kind."""
        listed = list(files)
        width = max((len(kind) + 2 for kind, _ in listed), default=0)
        self.print_lines(*(f"{kind:<{max(width, 8)}}{os.path.relpath(path)}" for kind, path in listed))

    def print_whole(self, table: Table) -> None:
        """Print a table as wide as it is: what is broken over lines, or cut off, cannot be copied or compared."""
        needed = Measurement.get(self, self.options.update(max_width=_ENDLESS), table).maximum
        Output(max(self.width, needed)).print(table)


def _make_printable(shown: Any) -> Any:
    if isinstance(shown, str):
        return printable_lines(shown)
    if isinstance(shown, Text) and (text := printable_lines(shown.plain)) != shown.plain:
        return Text(text, style=shown.style)
    return shown


def print_line(line: str, *, err: bool = False) -> None:
    """Print one line as it is, on standard output or standard error."""
    typer.echo(printable(line, _LONGEST), err=err)


def print_json(document: dict[str, Any]) -> None:
    """Print exactly one JSON object, in which what cannot be seen is escaped."""
    typer.echo(printable_json(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)))


def make_table(head: Iterable[Column | str], rows: Iterable[Sequence[str | Text]], **form: Any) -> Table:
    """Lay rows out under their head; `form` is what `rich.table.Table` takes."""
    table = Table(*head, box=SIMPLE_HEAD, pad_edge=False, **form)
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def write_bytes(count: int, units: Sequence[str] = BYTES) -> str:
    """Write a number of bytes for reading, such as `2.5 GB`; a kilobyte is 1000 bytes."""
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(units) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {units[unit]}"


def print_models(output: Output, record: Record) -> None:
    """Print what each model is, where its super weights are, and how its figures were measured."""
    for result in record.results:
        output.print(Text(printable(result.id), style="bold"), end="")
        for line in describe_model(result):
            output.print(printable(f"  {line}"))


def print_worst(output: Output, record: Record) -> None:
    """Print the worst of many models as a table, and a line on all others."""
    tables, others = list_worst(record.models)
    for rows in tables:
        output.print_whole(make_table(MODELS_HEAD, rows))
    output.print_lines(f"{others}; everything is in the report, and here with --verbose")


def tell_redactions(records: Iterable[Record]) -> list[str]:
    """Say in a line what was left out of records; nothing if nothing was."""
    redacted = add_redactions(*(record.redacted for record in records))
    return [f"redacted: {describe_redactions(redacted)} (--no-redaction leaves it in)"] if redacted else []


def tabulate_verdicts(verdicts: Sequence[Verdict], *, verbose: bool) -> Table:
    """Lay the verdicts out as a table; what is too long for a line is broken in one column, and never cut off."""
    broken = "observed" if verbose else "model"
    head = [
        Column(title, overflow="fold") if title.startswith(broken) else Column(title, no_wrap=True)
        for title in TABLE_HEAD
    ]
    rows: list[list[str | Text]] = []
    for verdict in verdicts:
        model, check, status, *figures = make_row(verdict)
        styled = Text(status, style=_STYLES[name_outcome(verdict)])
        rows.append([model, check, styled, *figures, *([verdict.because] if verbose else [])])
    return make_table([*head, *(["because"] if verbose else [])], rows, padding=(0, 2, 0, 0))
