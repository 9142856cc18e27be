"""Which bytes a model is made of: sha256 over its weight files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.identity import FileDigest

# Large enough that hashing, not the calls, takes the time; small beside any layer.
_CHUNK = 1 << 23
_SIDE_BY_SIDE = 4


def digest_files(folder: Path | str, *, allow_pickle: bool = False) -> tuple[FileDigest, ...]:
    """Digest the weight files of a checkpoint: those that opening it reads, and no others.

    Args:
        folder: The checkpoint.
        allow_pickle: Whether `.bin` files are read where there is no safetensors file.

    Returns:
        One digest per file, by path.

    Raises:
        CheckpointError: If there are no weight files, or one cannot be read.
    """
    root = Path(folder)
    policy = ModelPolicy(source=str(root), allow_pickle=allow_pickle)
    return digest_paths(CheckpointFolder(root, policy).weight_files, root)


def digest_content(folder: Path | str) -> str:
    """Digest everything that lies in a folder: weights, configuration, tokenizer, model card, whatever is there.

    What the same bytes are called, and what they are, decides the digest; hidden files and subfolders do not.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    root = Path(folder)
    paths = [path for path in root.iterdir() if path.is_file() and not path.name.startswith(".")]
    return digest_manifest(digest_paths(paths, root))


def digest_paths(files: Iterable[Path], root: Path) -> tuple[FileDigest, ...]:
    """Digest files below a folder, several side by side; one digest per file, by path.

    Raises:
        CheckpointError: If one cannot be read.
    """
    # Digesting runs without Python's lock, so that shards can be digested side by side.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _SIDE_BY_SIDE)) as pool:
        return tuple(pool.map(partial(_digest_file, root=root), sorted(files)))


def digest_manifest(files: Iterable[FileDigest]) -> str:
    """Return the sha256 over `path size sha256`, a line each in order of path: the digest of a model.

    `sha256sum` over a text file of those lines gives the same.
    """
    lines = sorted(f"{file.path} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_file(path: Path, root: Path) -> FileDigest:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    size = 0
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                size += count
    except OSError as error:
        found = f"{path.name} cannot be read ({error.strerror})"
        raise CheckpointError(f"model {str(root)!r}", found, "check the file and its permissions") from error
    return FileDigest(path=path.relative_to(root).as_posix(), size=size, sha256=digest.hexdigest())
