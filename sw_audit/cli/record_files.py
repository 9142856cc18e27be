"""What a command leaves of a record: a folder with record and report, or one file."""

from __future__ import annotations

from pathlib import Path

from sw_audit.record import rendering
from sw_audit.record.record import Record
from sw_audit.record.store import check_writable, encode_record, one_line_nonsense, write_texts
from sw_audit.runner.output import RECORD, REPORT


def place_record(output: Path) -> dict[str, Path]:
    """Return what is written where, by kind: one .json or .html file, else both in a folder, made if missing.

    Raises:
        OutputError: If it cannot be written there.
    """
    kind = {".json": "record", ".html": "report", ".htm": "report"}.get(output.suffix.lower())
    files = {kind: output} if kind else {"record": output / RECORD, "report": output / REPORT}
    check_writable(next(iter(files.values())).parent)
    return files


def write_record(record: Record, files: dict[str, Path], named: str) -> None:
    """Write a record to the places of `place_record`."""
    write = {"record": encode_record, "report": rendering.render_record}
    with one_line_nonsense(named):
        texts = {path: write[kind](record) for kind, path in files.items()}
    write_texts(texts)
