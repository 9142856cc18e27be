"""A checkpoint's folder, which is written whole or not at all, and the metadata of its files."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
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


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add entries to the metadata of a safetensors file; the tensors stay as they are, byte for byte.

    Args:
        path: The file; it is replaced by another one, written beside it.
        entries: What to add, as the format wants it: text by text.
    """
    written = path.with_name(f".{path.name}.tmp")
    with path.open("rb") as old, written.open("xb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        header["__metadata__"] = {**header.get("__metadata__", {}), **entries}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        # The format wants the tensors to begin at a multiple of eight, and allows spaces for that.
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new, 1 << 24)
    written.replace(path)


def _name_beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.{ending}")
