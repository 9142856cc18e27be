"""The files of an audit: a record per policy, its report, the baseline that it is kept as."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sw_audit.errors import AuditError, OutputError
from sw_audit.printable import printable
from sw_audit.record import rendering
from sw_audit.record.record import Record
from sw_audit.record.store import check_name, check_writable, encode_record, keep_baseline, write_text
from sw_audit.runner.cache import Cache, open_cache
from sw_audit.runner.options import AuditSettings


@dataclass
class WrittenRecord:
    """One record and where it lies.

    Attributes:
        record: The record.
        files: `record`, and `report` and `baseline` if they were asked for.
        error: Why a file could not be written; that file is not among `files`.
        remark: Why a baseline was not kept though it could have been, in one line.
    """

    record: Record
    files: dict[str, Path] = field(default_factory=dict)
    error: Exception | None = None
    remark: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why a file could not be written, in one line."""
        return None if self.error is None else tell_error(self.error)


def check_places(settings: AuditSettings) -> Cache | None:
    """Complain before anything is measured about what could not be written after; return the cache.

    Raises:
        OutputError: If the output folder cannot be written, a baseline cannot have the name or be written, or a
            named cache cannot be used.
    """
    out = settings.out.absolute()
    missing = [place for place in (out, *out.parents) if not place.exists()]
    try:
        _try_writing(out)
    finally:
        for place in missing:  # no trace of having tried; what another process has filled meanwhile stays
            with suppress(OSError):
                place.rmdir()
    if settings.save is not None:
        check_name(settings.save)
    return open_cache(settings.cache, asked=settings.cache is not None) if settings.caching else None


def _try_writing(folder: Path) -> None:
    """Complain about a folder that cannot be written; another process may take it away while it is tried."""
    for last in (False, False, False, True):
        try:
            check_writable(folder)
        except OutputError as error:
            if last or not isinstance(error.__cause__, FileNotFoundError):
                raise
        else:
            return


def name_folders(out: Path, names: Sequence[str]) -> list[Path]:
    """Return `out` for the only record, else a folder in it for each; a name that comes again is numbered."""
    if len(names) < 2:
        return [out] * len(names)
    numbers = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [
        out / (name if number == 1 else f"{name}-{number}") for name, number in zip(names, numbers, strict=True)
    ]


def save_record(record: Record, folder: Path) -> Path:
    """Write a record into a folder, and return its place.

    Raises:
        OutputError: If it cannot be written.
    """
    check_writable(folder)
    path = folder / "record.json"
    write_text(path, encode_record(record))
    return path


class UnfinishedRecord:
    """A record in a folder while its run goes on, so that there is one however the run ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._missing = [place for place in (folder, *folder.parents) if not place.exists()]
        self._before: str | None = None
        with suppress(OSError, UnicodeDecodeError):
            self._before = (folder / "record.json").read_text(encoding="utf-8")

    def write(self, record: Record) -> None:
        """Write the record as it stands; that it cannot be written is told at the end of the run."""
        with suppress(OutputError):
            save_record(record, self.folder)

    def take_back(self) -> None:
        """Leave the folder as it was before the run."""
        path = self.folder / "record.json"
        with suppress(OSError, OutputError):
            if self._before is not None:
                write_text(path, self._before)
                return
            path.unlink(missing_ok=True)
            for place in self._missing:
                place.rmdir()


def is_baseline(compare: str | None, folder: Path) -> bool:
    """Whether what models are held against is the record in a folder, named by a path."""
    places = [] if compare is None else [Path(compare).expanduser(), Path(compare).expanduser() / "record.json"]
    return (folder / "record.json").resolve() in [place.resolve() for place in places]


def write_record(record: Record, folder: Path, settings: AuditSettings, among: str | None = None) -> WrittenRecord:
    """Write a record, its report, and the baseline that it is to be kept as.

    What goes wrong is told by the result and not raised: a long measurement is not to be lost over a page. Where
    there are several records, `among` is the name of this one's policy, which its baseline bears too. A run that
    was stopped is kept as no baseline.
    """
    written = WrittenRecord(record)
    stopped = next((model.stopped for model in record.models if model.stopped is not None), None)
    try:
        written.files["record"] = save_record(record, folder)
        if settings.report:
            write_text(folder / "report.html", rendering.render_record(record, "html"))
            written.files["report"] = folder / "report.html"
        if settings.save and stopped is not None:
            written.remark = f"baseline {settings.save!r} was not kept, for {stopped}"
        elif settings.save:
            name = f"{settings.save}-{among}" if among else settings.save
            written.files["baseline"] = keep_baseline(name, record)
    except Exception as error:
        written.error = error
    return written


def tell_error(error: Exception) -> str:
    """Put an error into one line; one that is not about the input is named by its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AuditError) else printable(f"{type(error).__name__}: {text}")
