"""`sw-audit render`: a record in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.printing import print_line
from sw_audit.record import rendering
from sw_audit.record.store import one_line_nonsense, read_record, write_text


def render(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A record.json, or a report.html that carries its record.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; '-' is standard output.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="NAME", help="Form to render in.")] = "html",
) -> None:
    """Render a record; nothing is measured or judged again.

    For example:

      sw-audit render sw-audit-out/record.json -o report.html
    """
    held = read_record(record)
    with one_line_nonsense(f"record {record}"):
        text = rendering.render_record(held, form)
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    print_line(f"wrote {output}")
