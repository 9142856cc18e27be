"""`sw-audit render`: a record in another form."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.options import Unverified
from sw_audit.cli.printing import print_line
from sw_audit.errors import RecordError
from sw_audit.evidence.merge import select_models
from sw_audit.evidence.verify import require_verified
from sw_audit.record import rendering
from sw_audit.record.record import Record
from sw_audit.record.rendering import list_formats
from sw_audit.record.store import one_line_nonsense, open_stored, write_text


def render(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A record.json, or a report.html that carries its record.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; '-' is standard output.")
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help=f"Form to render in: {', '.join(list_formats())}.")
    ] = "html",
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="ID", help="Of several models only this one; may be given again."),
    ] = None,
    unverified: Unverified = False,
) -> None:
    """Render a record; nothing is measured or judged again.

    For example:

      sw-audit render sw-audit-out/record.json -o report.html

      sw-audit render sw-audit-out/record.json --model llama-w4 -o llama-w4.html

      sw-audit render sw-audit-out/record.json --format markdown -o -
    """
    whole = require_verified(open_stored(record), str(record), unverified=unverified)
    held = _choose_models(whole, models or [], record)
    with one_line_nonsense(f"record {record}"):
        text = rendering.render_record(held, form)
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    print_line(f"wrote {output}")


def _choose_models(record: Record, models: list[str], origin: Path) -> Record:
    """Return the record of some of its models; all of it where none is named."""
    known = [model.id for model in record.models]
    for name in models:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"its {len(known)} models begin with {known[:3]}"
            raise RecordError(f"record {origin}", f"it holds no model {name!r}", remedy)
    return select_models(record, models) if models else record
