"""The digest of the few bytes that a model depends on, and whether they are what they were.

For loaders: it needs nothing but the standard library, and reads those bytes alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sw_audit.errors import InputError

SCHEMA = 1
_HEX = re.compile(r"[0-9a-f]{64}")
_AGAIN = "write it anew with `sw-audit bits MODEL --out FOLDER`"
_LARGEST = 64 << 20
"""Bytes of a digest file that are read."""
_LONGEST = 1 << 20
"""Bytes of a range: more than any scalar and its scales take."""


class ByteFault(NamedTuple):
    """Bytes that are not what they were.

    Attributes:
        file: Name of the file.
        offset: Of the first byte in the file.
        length: How many bytes.
        found: `changed`; `missing`: there is no such file, or it cannot be read; `cut off`: it ends before.
    """

    file: str
    offset: int
    length: int
    found: Literal["changed", "missing", "cut off"]

    def __str__(self) -> str:
        if self.found == "missing":
            return f"{self.file} is missing"
        return f"{self.file}, bytes {self.offset} to {self.offset + self.length - 1}: {self.found}"


def check_bytes(digest_file: str | Path, folder: str | Path) -> tuple[ByteFault, ...]:
    """Hold the bytes that a digest file names against those of a folder's files.

    Args:
        digest_file: As `sw-audit bits` writes it, `critical-bytes.json`.
        folder: Of the weight files, or one of them, where there is one only.

    Returns:
        What differs, in the order of the digest file; nothing where all bytes are what they were.

    Raises:
        InputError: If the digest file is none, or there is no such folder.
    """
    ranges, place = _read_digest(Path(digest_file)), Path(folder)
    if not place.exists():
        raise InputError(f"folder {str(folder)!r}", "there is none", "name the folder of the weight files")
    return tuple(_compare(ranges, place))


def digest_bytes(ranges: Mapping[Path, Iterable[tuple[int, int]]]) -> dict[str, Any]:
    """Digest bytes of files, in the form that `check_bytes` reads.

    Args:
        ranges: Of each file offset and length of what counts; what touches or overlaps becomes one.
    """
    files = []
    for path, some in ranges.items():
        with path.open("rb") as file:
            entries = [
                {"offset": begin, "length": length, "sha256": _digest(file, begin, length)}
                for begin, length in _join(some)
            ]
        files.append({"name": path.name, "ranges": entries})
    return {"schema": SCHEMA, "files": files, "sha256": _digest_all(files)}


def _join(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, length in sorted(ranges):
        if joined and begin <= sum(joined[-1]):
            first = joined[-1][0]
            joined[-1] = first, max(sum(joined[-1]), begin + length) - first
        else:
            joined.append((begin, length))
    return joined


def _digest(file: Any, begin: int, length: int) -> str | None:
    """Return the sha256 of some bytes; `None` where the file ends before."""
    file.seek(begin)
    held = file.read(length)
    return hashlib.sha256(held).hexdigest() if len(held) == length else None


def _digest_all(files: Iterable[Mapping[str, Any]]) -> str:
    """Digest a line for each range: name, offset, length and sha256, apart by a tabulator."""
    lines = (
        f"{file['name']}\t{one['offset']}\t{one['length']}\t{one['sha256']}\n"
        for file in files
        for one in file["ranges"]
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _compare(ranges: Mapping[str, list[tuple[int, int, str]]], place: Path) -> Iterator[ByteFault]:
    for name, some in ranges.items():
        path = place / name if place.is_dir() else place
        # A pipe in its place would never end; nothing is read but what counts.
        try:
            if not path.is_file():
                raise FileNotFoundError(path)
            with path.open("rb", buffering=0) as file:
                for begin, length, expected in some:
                    if (found := _digest(file, begin, length)) != expected:
                        yield ByteFault(name, begin, length, "cut off" if found is None else "changed")
        except OSError:
            yield ByteFault(name, *some[0][:2], "missing")


def _read_digest(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    asked = f"digest file {str(path)!r}"
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST))
    except OSError as error:
        raise InputError(asked, error.strerror or "it cannot be read", "name a digest file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(asked, "it is not JSON", _AGAIN) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(asked, f"it is no digest file of schema {SCHEMA}", _AGAIN)
    try:
        ranges = {
            file["name"]: [(one["offset"], one["length"], one["sha256"]) for one in file["ranges"]]
            for file in content["files"]
        }
        whole = content["sha256"] == _digest_all(content["files"])
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(asked, "parts of it are missing", _AGAIN) from error
    sound = all(map(_is_name, ranges)) and all(some and all(map(_is_range, some)) for some in ranges.values())
    if not sound or not ranges or len(ranges) < len(content["files"]):
        raise InputError(asked, "it names no bytes, or names them wrongly", _AGAIN)
    if not whole:
        raise InputError(asked, "its parts do not make its own sha256", _AGAIN)
    return ranges


def _is_name(name: object) -> bool:
    # What a digest file names must not reach out of the folder.
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def _is_range(one: tuple[object, object, object]) -> bool:
    begin, length, digest = one
    whole = type(begin) is int and type(length) is int and 0 <= begin < 1 << 62 and 0 < length <= _LONGEST
    return whole and isinstance(digest, str) and _HEX.fullmatch(digest) is not None
