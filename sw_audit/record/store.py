"""Files: reports and records are written whole or not at all, and read from JSON or from an HTML report."""

from __future__ import annotations

import os
import secrets
from html.parser import HTMLParser
from pathlib import Path

from sw_audit.errors import OutputError, RecordError
from sw_audit.record.codec import decode_record
from sw_audit.record.record import Record

EMBEDDED_ID = "sw-audit-record"


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is either the old one or the whole new one, whatever happens.

    The text goes to a temporary file beside it, which takes its name only once it is safely on disk.

    Args:
        path: The file; its folder must exist. A device or pipe is written to directly.
        text: Written in UTF-8, with line ends as they are.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(text, encoding="utf-8", newline="")
            return
        _replace(path.resolve(), text)
    except OSError as error:
        raise OutputError(f"output {path}", _reason(error), "choose a place that can be written to") from error


def check_writable(folder: Path) -> None:
    """Make sure that files can be written into a folder; create it if needed.

    Raises:
        OutputError: If it cannot be created or written to.
    """
    probe = folder / f".sw-audit-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        remedy = "choose a folder that can be written to"
        raise OutputError(f"output folder {folder}", _reason(error), remedy) from error


def read_record(path: Path) -> Record:
    """Read a record from a JSON file, or from an HTML report that carries it.

    Raises:
        RecordError: If there is no such file, it carries no record, or the record cannot be used.
    """
    asked = f"record {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(asked, "it is not text in UTF-8", "give record.json or report.html") from error
    except OSError as error:
        raise RecordError(asked, _reason(error), "give record.json or report.html") from error
    if path.suffix.lower() not in (".html", ".htm"):
        return decode_record(text, str(path))
    finder = _RecordFinder()
    finder.feed(text)
    finder.close()
    if finder.found is None:
        raise RecordError(asked, "this page carries no record", "give a report that sw-audit wrote")
    return decode_record(finder.found, str(path))


class _RecordFinder(HTMLParser):
    """Collects the text of the script element that carries the record."""

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", EMBEDDED_ID) in attrs
        if self._inside:
            self.found = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found = (self.found or "") + data


def _replace(path: Path, text: str) -> None:
    # Not tempfile: its files are private to the user, and a report is for others, as the umask has it.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
