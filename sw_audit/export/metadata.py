"""What a safetensors file says of itself: its metadata, changed without reading a weight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path


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
