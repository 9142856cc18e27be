"""What lies in a cache, and letting go of what was not used for long or is too much.

An entry counts as used when it is written or found, which its file's time tells. Only files that are named as
entries are ever taken away, so that a folder that was named by mistake loses nothing. What another run uses
meanwhile is not there for it any more at worst, and is measured again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sw_audit.errors import InputError
from sw_audit.leftovers import clear, list_abandoned
from sw_audit.runner.cache import Cache

_ENTRY = re.compile(r"[0-9a-f]{64}\.json")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_AGES = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TICK = 2.0
"""Seconds by which a file's time may be off."""
_TAIL = 1 << 16
_QUESTION = re.compile(rb',(?="question":\{)')


@dataclass(frozen=True)
class Entry:
    """One answer that is kept.

    Attributes:
        path: Its file.
        kind: What it is, such as `arm`; `staged` where it is not known yet what it is about.
        size: In bytes.
        used: When it was used last, in seconds since 1970.
    """

    path: Path
    kind: str
    size: int
    used: float


def list_entries(folder: Path) -> list[Entry]:
    """List the entries of a cache, the one that was not used for longest first."""
    return sorted(_find_entries(folder), key=lambda entry: (entry.used, entry.path))


def choose_entries(
    entries: Iterable[Entry], now: float, *, older_than: float | None = None, larger_than: float | None = None
) -> list[Entry]:
    """Choose what to let go: what was not used for so many seconds, then the oldest until so many bytes are left.

    `entries` are in the order of `list_entries`.
    """
    known = list(entries)
    chosen = [entry for entry in known if older_than is not None and now - entry.used > older_than]
    left = known[len(chosen) :]
    size = sum(entry.size for entry in left)
    for entry in left:
        if larger_than is None or size <= larger_than:
            break
        chosen.append(entry)
        size -= entry.size
    return chosen


def evict(cache: Cache, largest: float, oldest: float) -> None:
    """Let go of what is too old or too much, but of nothing that was used since the cache was opened."""
    with suppress(OSError):
        chosen = choose_entries(list_entries(cache.folder), time.time(), older_than=oldest, larger_than=largest)
        remove_entries(cache.folder, (entry for entry in chosen if entry.used < cache.opened - _TICK))
        clear(list_abandoned(cache.folder.glob("*/*/*.tmp")))


def remove_entries(folder: Path, entries: Iterable[Entry]) -> None:
    """Take entries away, and the folders in which nothing is left."""
    for entry in entries:
        clear([entry.path, entry.path.with_suffix(".lock")])
        for above in entry.path.parents:
            if above == folder:
                break
            with suppress(OSError):
                above.rmdir()


def read_sources(entries: Iterable[Entry]) -> dict[Entry, str]:
    """Return the source of the model that each entry is about, where a question about its files says so."""
    questions = {entry: _read_question(entry) for entry in entries}
    known: dict[str, str] = {}
    for question in questions.values():
        asked = question if "asked" in question else question.get("parent") or {}
        if "asked" in asked:
            known[str(asked.get("content"))] = str(asked["asked"]["source"])
    contents = {
        entry: str({**(question.get("parent") or {}), **(question.get("model") or {}), **question}.get("content"))
        for entry, question in questions.items()
    }
    return {entry: known[content] for entry, content in contents.items() if content in known}


def _read_question(entry: Entry) -> dict[str, Any]:
    # The question comes last in a file, and is short.
    with suppress(OSError, ValueError, LookupError), entry.path.open("rb") as file:
        file.seek(max(0, entry.size - _TAIL))
        question = json.loads(b"{" + _QUESTION.split(file.read(), maxsplit=1)[1])["question"]
        return question if isinstance(question, dict) else {}
    return {}


def parse_size(written: str, option: str) -> float:
    """Return a number of bytes such as `500MB`; InputError if it is none."""
    return _parse(written, option, _SIZES, "a size such as 500MB or 2GB")


def parse_age(written: str, option: str) -> float:
    """Return a length of time in seconds, such as `30d`; InputError if it is none."""
    return _parse(written, option, _AGES, "a length of time such as 12h or 30d")


def _parse(written: str, option: str, units: dict[str, int], form: str) -> float:
    match = _AMOUNT.fullmatch(written.strip())
    known = {unit.lower(): factor for unit, factor in units.items()}
    if match is None or match[2].lower() not in known:
        raise InputError(f"--{option} {written}", f"it is not {form}", f"use one of the units {', '.join(units)}")
    return float(match[1]) * known[match[2].lower()]


def _find_entries(folder: Path) -> Iterator[Entry]:
    for path in folder.rglob("*.json"):
        if _ENTRY.fullmatch(path.name) and path.parent.name == path.name[:2]:
            with suppress(OSError):
                state = path.stat()
                yield Entry(path, path.relative_to(folder).parts[0], state.st_size, state.st_mtime)
