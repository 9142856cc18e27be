"""The header of a safetensors file: what it holds, and whether the file is whole, without reading a weight."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

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
    """A weight file that cannot be used: what is wrong, what to do, and its name."""

    def __init__(self, found: str, remedy: str, where: str = "") -> None:
        self.found, self.remedy, self.where = found, remedy, where
        super().__init__(f"{found}; {remedy}")


class TensorHeader(NamedTuple):
    """What a file says of one tensor: dtype as safetensors (`BF16`) or GGUF (`Q4_0`) name it, shape, file name."""

    dtype: str
    shape: tuple[int, ...]
    file: str


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read the header of a safetensors file: its tensors by name, in the order of the file.

    Raises:
        DamagedFileError: If the file is empty, cut off, too long, a git-LFS pointer or no safetensors file.
    """
    try:
        # Without torch, so that a checkpoint can be refused before anything heavy is loaded.
        with safe_open(path, framework="np") as file:
            parts = ((name, file.get_slice(name)) for name in file.offset_keys())
            return {
                name: TensorHeader(part.get_dtype(), tuple(part.get_shape()), path.name) for name, part in parts
            }
    except (SafetensorError, OSError) as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> DamagedFileError:
    """Say what is wrong with a file that the library refuses: it says so in its own terms, and without counts."""
    size = path.stat().st_size
    if size == 0:
        return _refuse(path, "is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        text = file.read(min(length, _LONGEST_HEADER))
    if start == _LFS:
        return _refuse(path, "is a git-LFS pointer, not the weights", "run `git lfs pull` there")
    if size < 8 or length > _LONGEST_HEADER:
        return _refuse(path, "is not a safetensors file")
    if length > size - 8:
        return _refuse(path, "is cut off within its header")
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
        spans = sorted((int(begin), int(end), name) for name, (begin, end) in offsets.items())
        lengths = {
            name: SIZES[entry["dtype"]] * math.prod(map(int, entry["shape"]))
            for name, entry in entries.items()
            if entry["dtype"] in SIZES
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return _refuse(path, "is not a safetensors file: its header does not read")
    promised, held = max((stop for _, stop, _ in spans), default=0), size - 8 - length
    if held != promised:
        state = "cut off" if held < promised else "too long"
        return _refuse(path, f"is {state}: its header promises {promised} bytes of weights, there are {held}")
    reached = 0
    for begin, end, name in spans:
        if end - begin != lengths.get(name, end - begin):
            return _refuse(path, f"gives tensor {name!r} another length than its shape")
        if begin != reached:
            return _refuse(path, f"has a gap or an overlap before tensor {name!r}")
        reached = end
    return _refuse(path, f"does not read ({error})")


def _refuse(path: Path, state: str, remedy: str = "download or copy it again") -> DamagedFileError:
    return DamagedFileError(f"{path.name} {state}", remedy, path.name)
