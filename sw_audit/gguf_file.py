"""Reading a GGUF file's metadata: a tenth of a million tokens and merges, read once for all who ask."""

from __future__ import annotations

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


@lru_cache(maxsize=2)  # a descendant and its parent
def _read(path: Path, _: int, __: int) -> Any:
    import numpy as np
    from gguf.gguf_reader import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Slices a plain array: a memmap takes three times as long."""

        data: Any

        def _get(self, *args: Any, **kwargs: Any) -> Any:
            self.data = np.asarray(self.data)
            return super()._get(*args, **kwargs)

    return Reader(path)
