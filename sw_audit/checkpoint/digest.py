"""Which bytes a model is made of: sha256 over its weight files; and whether a file is still what it was."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from sw_audit.errors import CheckpointError
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import FileDigest

# Large enough that hashing, not the calls, takes the time; small beside any layer.
_CHUNK = 1 << 23
_SIDE_BY_SIDE = 4
_SETTLED = 60 * 10**9


class FileState(NamedTuple):
    """A file as the file system tells of it: device, inode, bytes, and in nanoseconds when it was changed last.

    `modified` can be set by anybody; `changed` is the system's own, and set by every change of content, name,
    owner or number of links.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    links: int

    def holds_what(self, other: FileState) -> bool:
        """Whether the content is that of another state of the same file.

        Making or removing a link to it, as programs that back up do, sets `changed` and nothing else.
        """
        return self == other or (self[:4] == other[:4] and self.links != other.links)

    def is_settled(self, now: int) -> bool:
        """Whether an equal state later means the same content, by the clock in nanoseconds at the first look.

        It does not where the last change is less than a minute old (a second one may bear the same time, and
        pages that a program has mapped and changed are marked again only after they were written to disk), lies
        in the future (another machine's clock), or bears whole seconds (a file system of coarse times, or one that
        makes them up), and on Windows, where `changed` is when the file was made.
        """
        return os.name == "posix" and self.changed % 10**9 != 0 and now - self.changed >= _SETTLED


def read_state(path: Path) -> FileState:
    """Ask the file system for a file's state; it is opened, for then a network file system asks its server.

    Raises:
        OSError: If it cannot be opened.
    """
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        state = os.fstat(opened)
    finally:
        os.close(opened)
    return FileState(
        state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_nlink
    )


def digest_paths(
    files: Iterable[Path], root: Path, progress: Progress = ignore_progress
) -> tuple[FileDigest, ...]:
    """Digest files below a folder, several at once: one digest per file, by path; progress is in mebibytes."""
    paths, digests, done = sorted(files), [], 0
    total = sum(path.stat().st_size for path in paths if path.is_file())
    # Digesting runs without Python's lock, so that shards can be digested side by side.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _SIDE_BY_SIDE)) as pool:
        for digest in pool.map(partial(_digest_file, root=root), paths):
            digests.append(digest)
            done += digest.size
            progress("digesting", done >> 20, total >> 20)
    return tuple(digests)


def hold_the_same(ours: Iterable[Path], theirs: Iterable[Path]) -> bool:
    """Tell whether two checkpoints hold the same weight files, whatever these are called; sizes are asked first.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    mine, others = list(ours), list(theirs)
    if sorted(path.stat().st_size for path in mine) != sorted(path.stat().st_size for path in others):
        return False
    digests = ([digest_paths([path], path.parent)[0].sha256 for path in paths] for paths in (mine, others))
    first, second = map(sorted, digests)
    return first == second


def digest_manifest(files: Iterable[FileDigest]) -> str:
    """Return the digest of a model: the sha256 of a text of lines `path size sha256` in order of path."""
    lines = sorted(f"{file.path} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_file(path: Path, root: Path) -> FileDigest:
    try:
        state = read_state(path)
        digest = _digest_once if state.is_settled(time.time_ns()) else _digest_content
        size, sha256 = digest(path.resolve(), state)
    except OSError as error:
        found = f"{path.name} cannot be read ({error.strerror})"
        raise CheckpointError(f"model {str(root)!r}", found, "check the file and its permissions") from error
    return FileDigest(path=path.relative_to(root).as_posix(), size=size, sha256=sha256)


def _digest_content(path: Path, _: FileState) -> tuple[int, str]:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    size = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return size, digest.hexdigest()


# A settled file is digested once as long as it is as it was: cache key, identity and each descendant ask.
_digest_once = lru_cache(maxsize=4096)(_digest_content)
