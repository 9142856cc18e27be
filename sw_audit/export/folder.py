"""A folder that is written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sw_audit.errors import OutputError


def check_place(folder: Path, source: Path | None, *, force: bool) -> None:
    """Complain, before anything heavy is done, about a folder that must not be written.

    Args:
        folder: Where the checkpoint is to go.
        source: Where the model comes from, if it is on this machine.
        force: Whether what is in the folder may be replaced.

    Raises:
        OutputError: If it is no folder, holds something, or is or holds the model itself.
    """
    asked = f"output folder {folder}"
    own = None if source is None else source.resolve()
    if own is not None and (own == folder.resolve() or folder.resolve() in own.parents):
        raise OutputError(asked, "the model itself is there", "choose another folder")
    if folder.exists() and not folder.is_dir():
        raise OutputError(asked, "it is a file", "choose a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(asked, "it is not empty", "choose another folder, or replace it with --force")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to write into, which takes its name once everything in it is written.

    What was there under that name before is let go only then; after an exception it is still there.

    Args:
        folder: The name.

    Raises:
        OutputError: If it cannot be written.
    """
    target = folder.resolve()
    draft, former = _name_beside(target, "tmp"), _name_beside(target, "old")
    try:
        draft.mkdir()
        yield draft
        if target.exists():
            target.rename(former)
        draft.rename(target)
    except OSError as error:
        raise OutputError(
            f"output folder {folder}", error.strerror or str(error), "choose a place that can be written to"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if former.exists() and not target.exists():
            former.rename(target)
        shutil.rmtree(former, ignore_errors=True)


def _name_beside(folder: Path, ending: str) -> Path:
    whole = folder.resolve()
    return whole.with_name(f".{whole.name}.{secrets.token_hex(8)}.{ending}")
