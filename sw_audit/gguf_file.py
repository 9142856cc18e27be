"""Reading a GGUF file's metadata: a tenth of a million tokens and merges, read once for all who ask."""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path
from typing import Any


def read_gguf(path: str | Path) -> Any:
    """Read a file's metadata, and where its tensors lie; once, as long as the file is as it was.

    Returns:
        The `gguf.GGUFReader`. Its tensors are mapped and cannot be written to.

    Raises:
        Exception: Of many kinds, if the file is damaged.
    """
    known = Path(path).stat()
    return _read(Path(path).resolve(), known.st_size, known.st_mtime_ns)


def let_go_of_pages(tensor: Any) -> None:
    """Let the file of a tensor go from memory, a numpy array as `gguf` maps it; what is looked at comes back."""
    while (below := getattr(tensor, "base", None)) is not None:
        tensor = below
    if isinstance(tensor, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        tensor.madvise(mmap.MADV_DONTNEED)


@lru_cache(maxsize=2)  # a descendant and its parent
def _read(path: Path, _: int, __: int) -> Any:
    import numpy as np
    from gguf import GGUFValueType
    from gguf.gguf_reader import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Slices a plain array, for a memmap takes three times as long; nothing is read beyond its end.

        There numbers would be empty and take no place, and a list of 2^63 of them would never end.
        """

        data: Any

        def _get(self, offset: int, *args: Any, **kwargs: Any) -> Any:
            self.data = np.asarray(self.data)
            if offset >= len(self.data):
                raise ValueError(f"there is nothing at byte {offset}")
            return super()._get(offset, *args, **kwargs)

    reader = Reader(path)
    for key, field in reader.fields.items():
        if not (key.startswith("tokenizer.") and field.types[0] == GGUFValueType.ARRAY):
            field.contents()  # of texts that are none it complains here, and not where one is asked for
    return reader
