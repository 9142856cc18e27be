"""The header of a safetensors file: what it holds, and whether the file is whole, without reading a weight."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

_LFS = b"version https://git-lfs"
# The format allows no longer header.
_LONGEST_HEADER = 100_000_000
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The dtypes that hold weights as they are, with their size in bytes."""


class DamagedFileError(Exception):
    """A weight file that cannot be used.

    Args:
        found: What is wrong with it.
        remedy: What to do.
    """

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}; {remedy}")


@dataclass(frozen=True)
class TensorHeader:
    """What a header says of one tensor.

    Attributes:
        dtype: In the format's notation, such as `BF16`.
        shape: As stored.
        start: Where its bytes begin, counted from the beginning of the file.
        stop: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read the header of a safetensors file and hold it against the length of the file.

    Args:
        path: The file.

    Returns:
        The tensors by name.

    Raises:
        DamagedFileError: If the file is empty, cut off, too long, a git-LFS pointer or no safetensors file.
    """
    again = "download or copy it again"
    size = path.stat().st_size
    if size == 0:
        raise DamagedFileError(f"{path.name} is empty (0 bytes)", again)
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        if start == _LFS:
            raise DamagedFileError(
                f"{path.name} is a git-LFS pointer, not the weights", "run `git lfs pull` there"
            )
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > _LONGEST_HEADER:
            raise DamagedFileError(f"{path.name} is not a safetensors file", again)
        if length > size - 8:
            raise DamagedFileError(f"{path.name} is cut off within its header", again)
        file.seek(8)
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        spans = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
        end = max((stop for _, stop in spans.values()), default=0)
        data = 8 + length
        header = {
            name: TensorHeader(entry["dtype"], tuple(entry["shape"]), data + spans[name][0], data + spans[name][1])
            for name, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(
            f"{path.name} is not a safetensors file: its header does not read", again
        ) from error
    held = size - 8 - length
    if held != end:
        state = "cut off" if held < end else "too long"
        raise DamagedFileError(
            f"{path.name} is {state}: its header promises {end} bytes of weights, there are {held}", again
        )
    for name, tensor in header.items():
        width = FLOATS.get(tensor.dtype)
        if width is not None and tensor.stop - tensor.start != width * math.prod(tensor.shape):
            raise DamagedFileError(f"{path.name} gives tensor {name!r} another length than its shape", again)
    return header
