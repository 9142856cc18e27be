"""The files of an audit: a record per policy, that record in other forms, the baseline that it is kept as."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sw_audit.errors import AuditError, InputError, OutputError
from sw_audit.leftovers import clear, clear_leftovers
from sw_audit.printable import printable
from sw_audit.record import rendering
from sw_audit.record.record import Record
from sw_audit.record.store import (
    check_name,
    check_writable,
    encode_record,
    find_shelf,
    place_baseline,
    write_texts,
)
from sw_audit.runner.cache import Cache, open_cache
from sw_audit.runner.cache_upkeep import evict, parse_age, parse_size
from sw_audit.runner.options import AuditSettings

RECORD, REPORT = "record.json", "report.html"


@dataclass
class WrittenRecord:
    """One record and where it lies.

    Attributes:
        record: The record.
        texts: What is to be written where, by kind; see `files`.
        files: What was written: `record`, and `report`, `baseline` and other formats if they were asked for.
        summary: What is to be appended to which file, if that was asked for.
        error: Why a file could not be written; that file is not among `files`.
        remark: Why a baseline was not kept though it could have been, in one line.
    """

    record: Record
    texts: dict[str, tuple[Path, str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    summary: tuple[Path, str] | None = None
    error: Exception | None = None
    remark: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why a file could not be written, in one line."""
        return None if self.error is None else tell_error(self.error)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note why something could not be made or written, and go on; the first such error is kept."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error


def check_places(settings: AuditSettings) -> Cache | None:
    """Complain before anything is measured about what could not be written after; return the cache.

    What processes that were killed have left in these folders is taken away.

    Raises:
        InputError: If a limit of the cache is none, or there is no job summary to append to.
        OutputError: If the output folder or a file cannot be written, two files are one, a baseline cannot have
            the name or be written, or a named cache cannot be used.
    """
    _check_files(settings)
    out = settings.out.absolute()
    # A device, such as /dev/stdout, is in no folder that is to be written.
    files = [path.absolute() for path in settings.formats.values() if path.is_file() or not path.exists()]
    folders = list(dict.fromkeys([out, *(path.parent for path in files)]))
    missing = {place for folder in folders for place in (folder, *folder.parents) if not place.exists()}
    try:
        for folder in folders:
            _try_writing(folder)
    finally:
        for place in sorted(missing, reverse=True):
            # No trace of having tried; what another process has filled meanwhile stays.
            with suppress(OSError):
                place.rmdir()
    if settings.save is not None:
        check_name(settings.save)
    clear_leftovers(*folders, find_shelf())
    _limit_cache(settings)
    return open_cache(settings.cache, asked=settings.cache is not None) if settings.caching else None


def _check_files(settings: AuditSettings) -> None:
    """Complain about files that cannot be told apart, and about what can be no file."""
    places = place_files(settings, settings.out)
    counts = Counter(path.resolve() for path in places.values())
    for form, path in settings.formats.items():
        if path.is_dir():
            raise OutputError(f"{form} {path}", "it is a folder", "name a file")
        if counts[path.resolve()] > 1:
            others = [kind for kind, place in places.items() if kind != form and place.resolve() == path.resolve()]
            raise OutputError(f"{form} {path}", f"the {others[0]} is written there", "name another file")
    if settings.summary:
        _find_summary()


def _find_summary() -> Path:
    if not (named := os.environ.get("GITHUB_STEP_SUMMARY")):
        found = "GITHUB_STEP_SUMMARY names no file, as it does in GitHub Actions"
        raise InputError("a job summary", found, "leave the option out, or name a file with --markdown")
    return Path(named)


def tidy_cache(cache: Cache | None, settings: AuditSettings) -> None:
    """Let go of what a cache holds that is too old or too much, but of nothing that the run used."""
    if cache is not None:
        evict(cache, *_limit_cache(settings))


def _limit_cache(settings: AuditSettings) -> tuple[float, float]:
    return parse_size(settings.cache_size, "cache-size"), parse_age(settings.cache_age, "cache-age")


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


def place_files(settings: AuditSettings, folder: Path) -> dict[str, Path]:
    """Return where the files of a record go whose folder is this one, by kind.

    One of several records has a folder of its own in `settings.out`, and one of the same name beside every other
    file that is asked for.
    """
    own = folder.relative_to(settings.out)
    report = {"report": folder / REPORT} if settings.report else {}
    others = {form: path.parent / own / path.name for form, path in settings.formats.items()}
    return {"record": folder / RECORD, **report, **others}


class UnfinishedFiles:
    """Files of a run while it goes on, so that there are some however the run ends.

    Attributes:
        folder: Where the record lies.
    """

    def __init__(self, folder: Path, *paths: Path) -> None:
        self.folder = folder
        places = {place for path in paths for place in (path.parent, *path.parent.parents)}
        self._missing = sorted((place for place in places if not place.exists()), reverse=True)
        # Devices and pipes are left alone until the end.
        files = [path for path in paths if path.is_file() or not path.exists()]
        self._before: dict[Path, str | None] = dict.fromkeys(files)
        for path in files:
            with suppress(OSError, UnicodeDecodeError):
                self._before[path] = path.read_text(encoding="utf-8")

    def write(self, texts: Mapping[Path, str]) -> None:
        """Write files as they stand, and take away those of an earlier run that would not go with them.

        That they cannot be written is told at the end of the run.
        """
        with suppress(OutputError, OSError):
            _write_together(texts)
            for path in self._before.keys() - texts.keys():
                path.unlink(missing_ok=True)

    def take_back(self) -> None:
        """Leave the folder as it was before the run."""
        with suppress(OSError, OutputError):
            write_texts({path: text for path, text in self._before.items() if text is not None})
            clear(path for path, text in self._before.items() if text is None)
            for place in self._missing:
                with suppress(OSError):
                    place.rmdir()


def is_baseline(compare: str | None, folder: Path) -> bool:
    """Whether what models are held against is the record in a folder, named by a path."""
    places = [] if compare is None else [Path(compare).expanduser(), Path(compare).expanduser() / "record.json"]
    return (folder / "record.json").resolve() in [place.resolve() for place in places]


def write_record(record: Record, folder: Path, settings: AuditSettings, among: str | None = None) -> WrittenRecord:
    """Write a record, what is rendered of it, and the baseline that it is to be kept as; see `draft_record`."""
    written = draft_record(record, folder, settings, among)
    write_drafts([written])
    return written


def draft_record(record: Record, folder: Path, settings: AuditSettings, among: str | None = None) -> WrittenRecord:
    """Make the texts of a record, of what is rendered of it, and of the baseline that it is to be kept as.

    What goes wrong is told by the result and not raised: a long measurement is not to be lost over a page. Where
    there are several records, `among` is the name of this one's policy, which its baseline bears too. A run that
    was stopped is kept as no baseline.
    """
    written = WrittenRecord(record)
    stopped = next((model.stopped for model in record.models if model.stopped is not None), None)
    with written.noting():
        text = encode_record(record)
        written.texts["record"] = folder / RECORD, text
        if settings.save and stopped is not None:
            written.remark = f"baseline {settings.save!r} was not kept, for {stopped}"
        elif settings.save:
            name = f"{settings.save}-{among}" if among else settings.save
            written.texts["baseline"] = place_baseline(name, record), text
    for kind, path in place_files(settings, folder).items():
        if "record" in written.texts and kind != "record":
            with written.noting():
                form = "html" if kind == "report" else kind
                written.texts[kind] = path, rendering.render_record(record, form)
    if settings.summary:
        with written.noting():
            written.summary = _find_summary(), rendering.render_record(record, "markdown")
    return written


def write_drafts(drafts: Sequence[WrittenRecord]) -> None:
    """Write the files of one run: all together, or, where one cannot be written, each that can be."""
    try:
        _write_together({path: text for draft in drafts for path, text in draft.texts.values()})
    except OutputError:
        for draft in drafts:
            for kind, (path, text) in draft.texts.items():
                try:
                    _write_together({path: text})
                except OutputError as error:
                    draft.error = draft.error or error
                else:
                    draft.files[kind] = path
    else:
        for draft in drafts:
            draft.files = {kind: path for kind, (path, _) in draft.texts.items()}
    for draft in drafts:
        if draft.summary is not None:
            with draft.noting():
                _append(*draft.summary)


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise OutputError(
            f"job summary {path}", error.strerror or str(error), "name a file in GITHUB_STEP_SUMMARY"
        ) from error


def _write_together(texts: Mapping[Path, str]) -> None:
    for folder in dict.fromkeys(path.parent for path in texts if not path.exists() or path.is_file()):
        check_writable(folder)
    write_texts(texts)


def tell_error(error: Exception) -> str:
    """Put an error into one line; one that is not about the input is named by its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AuditError) else printable(f"{type(error).__name__}: {text}")
