"""The tensors of a checkpoint's files as they are stored, one at a time, whatever the kind of file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.headers import DamagedFileError, read_header

_GGUF = b"GGUF"


@dataclass(frozen=True)
class Shape:
    """What a file says of one tensor before it is read.

    Attributes:
        dtype: In the notation of safetensors, such as `BF16`, or of GGUF, such as `Q4_0`.
        shape: As stored.
        file: Name of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class StoredFile(ABC):
    """One file of tensors."""

    @abstractmethod
    def list_shapes(self) -> Mapping[str, Shape]:
        """List what it holds."""

    @abstractmethod
    def read(self, name: str) -> Tensor | None:
        """Read one tensor as stored; a GGUF tensor as the numbers it stands for; `None` if nobody here can."""


@dataclass
class StoredTensors:
    """The tensors of some files.

    Attributes:
        shapes: What the files say, by name; of a name that comes twice the last.
        twice: Names that come in two files.
        scanned: How many tensors have been read.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    scanned: int = 0
    _files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def safe(self) -> bool:
        """Whether all files are safetensors, whose headers say everything."""
        return all(isinstance(file, _Safetensors) for file in self._files.values())

    def add(self, path: Path) -> None:
        """Add a file."""
        file = _open_file(path)
        for name, shape in file.list_shapes().items():
            if name in self.shapes:
                self.twice.append(name)
            self.shapes[name] = shape
        self._files[path.name] = file

    def read(self, name: str) -> Tensor | None:
        """Read one tensor."""
        return self._files[self.shapes[name].file].read(name)

    def read_all(self) -> Iterator[tuple[str, Tensor]]:
        """Read every tensor once, in the order of the files."""
        for name in self.shapes:
            tensor = self.read(name)
            if tensor is not None:
                self.scanned += 1
                yield name, tensor


def open_stored(paths: Sequence[Path]) -> StoredTensors:
    """Open files for reading.

    Raises:
        DamagedFileError: If one is no such file, or is not whole.
    """
    stored = StoredTensors()
    for path in paths:
        stored.add(path)
    return stored


def _open_file(path: Path) -> StoredFile:
    if path.suffix == ".safetensors":
        return _Safetensors(path)
    return _Gguf(path) if path.suffix == ".gguf" else _Pickle(path)


class _Safetensors(StoredFile):
    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        headers = read_header(path)
        self._shapes = {name: Shape(one.dtype, one.shape, path.name) for name, one in headers.items()}
        try:
            self._file: Any = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise DamagedFileError(
                f"{path.name} does not read ({error})", "download it again", path.name
            ) from error

    def list_shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> Tensor | None:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except Exception:  # a dtype that torch has not; the library has errors of its own for that
            return None
        return tensor


class _Pickle(StoredFile):
    """A file of torch; only tensors are read from it, and no code runs."""

    def __init__(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self._tensors = {name: one for name, one in content.items() if isinstance(one, Tensor)}
        except Exception as error:  # pickles fail in every way there is
            found = f"{path.name} does not read as a file of tensors ({type(error).__name__})"
            raise DamagedFileError(found, "convert it to safetensors where it was made", path.name) from error
        names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
        names |= {torch.int8: "I8", torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64"}
        self._shapes = {
            name: Shape(names.get(one.dtype, str(one.dtype)), tuple(one.shape), path.name)
            for name, one in self._tensors.items()
        }

    def list_shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> Tensor | None:
        return self._tensors[name]


class _Gguf(StoredFile):
    """A file of llama.cpp; without the package `gguf`, of which opening complains, nothing of it is read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(_GGUF)) != _GGUF:
                raise DamagedFileError(f"{path.name} is not a GGUF file", "download it again", path.name)
        self._tensors: dict[str, Any] = {}
        if find_spec("gguf") is not None:
            from gguf import GGUFReader

            try:
                self._tensors = {one.name: one for one in GGUFReader(path).tensors}
            except Exception as error:  # numpy complains of a file that is cut off, in its own words
                found = f"{path.name} is cut off or damaged ({type(error).__name__})"
                raise DamagedFileError(found, "download it again", path.name) from error
        self._shapes = {
            name: Shape(one.tensor_type.name, tuple(int(size) for size in reversed(one.shape)), path.name)
            for name, one in self._tensors.items()
        }

    def list_shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> Tensor | None:
        from gguf.quants import dequantize

        one = self._tensors[name]
        try:
            # What is read is mapped and cannot be written to, which torch warns of.
            return torch.tensor(dequantize(one.data, one.tensor_type)).reshape(self._shapes[name].shape)
        except NotImplementedError:
            return None
