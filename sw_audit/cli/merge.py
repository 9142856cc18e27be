"""`sw-audit merge`: the records of several models or machines as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.options import Unverified
from sw_audit.cli.printing import Output
from sw_audit.cli.record_files import place_record, write_record
from sw_audit.errors import RecordError
from sw_audit.evidence.merge import Given, merge_records
from sw_audit.evidence.verify import require_verified, verify_record
from sw_audit.record.store import open_stored_baseline


def merge(
    records: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RECORD...",
            help="Each a record.json, a report.html, a folder with one, or a baseline's name. With a name before "
            "it, the models of the record are called ID@NAME.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER|FILE", help="Folder for record and report, or a .json or .html file."
        ),
    ],
    unverified: Unverified = False,
) -> None:
    """Put the records of several models or machines into one record and one report.

    Nothing is measured or judged. Each model keeps the policy, day, tool and environment of its own audit, and
    each record can be had again from the merged one; `sw-audit verify` looks at every one of them. Figures of
    different protocols stand in no table together. A model id that comes twice is refused unless its record is
    given a name.

    Exit codes: 0 merged, 2 a record that cannot be read or does not verify, or ids that come twice, 70 an error of
    sw-audit itself.

    For example:

      sw-audit merge llama/record.json qwen/record.json -o release

      sw-audit merge laptop=a/record.json server=b/record.json -o release.html
    """
    merged = merge_records([_read(word, unverified=unverified) for word in records])
    files = place_record(output)
    write_record(merged, files, f"records {', '.join(records)}")
    console = Output()
    console.print_files(files.items())
    console.print_lines(f"MERGED: {len(merged.models)} models of {len(merged.sources)} records", style="bold")


def _read(word: str, *, unverified: bool) -> Given:
    name, mark, place = word.partition("=")
    if not mark or Path(word).exists():
        name, place = "", word
    elif not name:
        raise RecordError(f"record {word!r}", "no name stands before '='", "write NAME=RECORD, or RECORD alone")
    stored = open_stored_baseline(place)
    record = require_verified(stored, place, unverified=unverified)
    return Given(record, place, name, verified=not unverified or not verify_record(stored, place))
