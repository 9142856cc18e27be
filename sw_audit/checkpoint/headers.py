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

SIZES = {
    **FLOATS,
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I64", "U64"), 8),
}
"""Size in bytes of one entry, by dtype."""


class DamagedFileError(Exception):
    """A weight file that cannot be used.

    Args:
        found: What is wrong with it.
        remedy: What to do.
        where: The file.
    """

    def __init__(self, found: str, remedy: str, where: str = "") -> None:
        self.found, self.remedy, self.where = found, remedy, where
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
    size = path.stat().st_size
    if size == 0:
        raise _refuse(path, "is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        if start == _LFS:
            raise _refuse(path, "is a git-LFS pointer, not the weights", "run `git lfs pull` there")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > _LONGEST_HEADER:
            raise _refuse(path, "is not a safetensors file")
        if length > size - 8:
            raise _refuse(path, "is cut off within its header")
        file.seek(8)
        text = file.read(length)
    data = 8 + length
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        spans = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
        end = max((stop for _, stop in spans.values()), default=0)
        header = {
            name: TensorHeader(entry["dtype"], tuple(entry["shape"]), data + spans[name][0], data + spans[name][1])
            for name, entry in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refuse(path, "is not a safetensors file: its header does not read") from error
    if (held := size - data) != end:
        state = "cut off" if held < end else "too long"
        raise _refuse(path, f"is {state}: its header promises {end} bytes of weights, there are {held}")
    _check_spans(path, header, data)
    return header


def _check_spans(path: Path, header: dict[str, TensorHeader], data: int) -> None:
    """Hold each tensor's length against its shape, and see that one begins where the one before it ends."""
    reached = data
    for name, tensor in sorted(header.items(), key=lambda one: (one[1].start, one[1].stop)):
        width = SIZES.get(tensor.dtype)
        if width is not None and tensor.stop - tensor.start != width * math.prod(tensor.shape):
            raise _refuse(path, f"gives tensor {name!r} another length than its shape")
        if tensor.start != reached:
            raise _refuse(path, f"has a gap or an overlap before tensor {name!r}")
        reached = tensor.stop


def _refuse(path: Path, state: str, remedy: str = "download or copy it again") -> DamagedFileError:
    return DamagedFileError(f"{path.name} {state}", remedy, path.name)
