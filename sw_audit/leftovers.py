"""Temporary files and folders whose names say whose they are, so that those of processes that were killed can go.

A process that is killed cannot tidy up. The next one of ours does, and takes away nothing but what bears such a
name and whose process is gone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_OWNED = re.compile(r"\.sw-audit-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}\.tmp")
_STALE = 24 * 3600.0
"""Seconds after which what another machine or container has left is old enough to be nobody's."""


def name_temporary() -> str:
    """Return a new name for something temporary of this process: machine, process id, and a word of chance."""
    return f".sw-audit-{_name_machine()}-{os.getpid()}-{secrets.token_hex(6)}.tmp"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a new folder among the system's temporary files, for the block; only this user can enter it."""
    folder = make_folder(Path(tempfile.gettempdir()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(place: Path) -> Path:
    """Make a temporary folder in a place; only this user can enter it."""
    folder = place / name_temporary()
    folder.mkdir(mode=0o700)
    return folder


def find_disk() -> Path | None:
    """Return where large temporary files may lie: among the system's, if these lie on a disk.

    Some systems keep `/tmp` in memory, and `/var/tmp` on a disk. `None` if both are kept in memory.
    """
    places = (place for place in _list_places() if place.is_dir() and os.access(place, os.W_OK))
    return next((place for place in places if not is_in_memory(place)), None)


def is_in_memory(place: Path) -> bool:
    """Whether a folder lies in a file system that is kept in memory."""
    place = place.resolve()
    # What is mounted later at the same place hides what was there.
    around = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    innermost = max(reversed(around), key=lambda one: len(Path(one.mountpoint).parts), default=None)
    return innermost is not None and innermost.fstype in ("tmpfs", "ramfs")


def _list_places() -> list[Path]:
    return list(dict.fromkeys([Path(tempfile.gettempdir()), Path("/var/tmp")]))  # noqa: S108 - nothing is guessable


def clear_leftovers(*folders: Path) -> None:
    """Take away what processes that are gone have left in some folders, and among the system's temporary files."""
    for folder in (*folders, *_list_places()):
        with suppress(OSError):
            clear(list_abandoned(folder.iterdir()))


def clear(paths: Iterable[Path]) -> None:
    """Take files and folders away; what cannot be taken away stays."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def list_abandoned(paths: Iterable[Path]) -> list[Path]:
    """Return those of some files and folders that are temporary, ours, and nobody's any more."""
    return [path for path in paths if (name := _OWNED.search(path.name)) and _is_abandoned(path, *name.groups())]


def _is_abandoned(path: Path, machine: str, process: str) -> bool:
    if machine == _name_machine() and os.name == "posix":
        return not _is_running(int(process))
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _STALE
    return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _name_machine() -> str:
    """Return a word for this machine, and where process ids count anew in a container, for that."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]
