"""Which bytes a model is made of: sha256 over its weight files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

from sw_audit.errors import CheckpointError
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import FileDigest

# Large enough that hashing, not the calls, takes the time; small beside any layer.
_CHUNK = 1 << 23
_SIDE_BY_SIDE = 4


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


def digest_manifest(files: Iterable[FileDigest]) -> str:
    """Return the digest of a model: the sha256 of a text of lines `path size sha256` in order of path."""
    lines = sorted(f"{file.path} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_file(path: Path, root: Path) -> FileDigest:
    try:
        state = path.stat()
        known = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        size, sha256 = _digest_content(path.resolve(), known)
    except OSError as error:
        found = f"{path.name} cannot be read ({error.strerror})"
        raise CheckpointError(f"model {str(root)!r}", found, "check the file and its permissions") from error
    return FileDigest(path=path.relative_to(root).as_posix(), size=size, sha256=sha256)


@lru_cache(maxsize=4096)
def _digest_content(path: Path, _: tuple[int, ...]) -> tuple[int, str]:
    """Digest a file once as long as it is as it was: the cache's key, the identity and each descendant ask."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    size = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return size, digest.hexdigest()
