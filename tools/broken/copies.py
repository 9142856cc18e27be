"""A copy of a checkpoint's folder, to be changed: what is large and not changed stays a link to the original."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "model.safetensors"
_LARGE = 1 << 24
"""Bytes; smaller files are copied."""


class Copy:
    """A copied folder; every change replaces a file, for what it was copied from has the same bytes."""

    def __init__(self, original: Path, folder: Path) -> None:
        shutil.copytree(original, folder, copy_function=_link)
        self.original, self.folder = original, folder

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return found

    def write(self, name: str, text: str) -> None:
        """Write a text file in the place of what is there."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    @contextmanager
    def edit(self, name: str) -> Iterator[dict[str, Any]]:
        """Give what a JSON file says, and write what it becomes; nothing where there is no such file."""
        path = self.folder / name
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        yield content
        self.write(name, json.dumps(content, ensure_ascii=False))

    def change(self, name: str, **changes: Any) -> None:
        """Change keys of a JSON file."""
        with self.edit(name) as content:
            content.update(changes)

    @contextmanager
    def tensors(self, name: str = WEIGHTS) -> Iterator[dict[str, Tensor]]:
        """Give the tensors of a file, and write what they become."""
        path = self.folder / name
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(path)
        yield tensors
        path.unlink()
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata)


def _link(source: str, target: str) -> None:
    # A link that comes and goes is a change of the original to whoever audits it meanwhile.
    if Path(source).stat().st_size > _LARGE:
        with suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)
