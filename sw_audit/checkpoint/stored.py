"""The tensors of a checkpoint's files as they are stored, one at a time, whatever the kind of file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.headers import DamagedFileError, TensorHeader

_GGUF = b"GGUF"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}


class TensorFile(ABC):
    """One file of tensors.

    Attributes:
        headers: What it holds, by name.
    """

    headers: Mapping[str, TensorHeader]

    @abstractmethod
    def read(self, name: str) -> Tensor | None:
        """Read one tensor as stored; a GGUF tensor as the numbers it stands for; `None` if nobody here can."""


@dataclass
class StoredTensors:
    """The tensors of some files.

    Attributes:
        files: The files by name.
        headers: What the files say, by name of the tensor; of a name that comes twice the last.
        repeated: Names that come in two files.
        scanned: How many tensors `read_all` has read.
    """

    files: Mapping[str, TensorFile]
    headers: dict[str, TensorHeader] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    scanned: int = 0

    def __post_init__(self) -> None:
        for file in self.files.values():
            self.repeated += [name for name in file.headers if name in self.headers]
            self.headers |= file.headers

    @property
    def all_safetensors(self) -> bool:
        """Whether all files are safetensors, whose headers say everything."""
        return all(isinstance(file, _Safetensors) for file in self.files.values())

    def read(self, name: str) -> Tensor | None:
        """Read one tensor."""
        return self.files[self.headers[name].file].read(name)

    def read_all(self) -> Iterator[tuple[str, Tensor]]:
        """Read every tensor once, in the order of the files."""
        for name in self.headers:
            tensor = self.read(name)
            if tensor is not None:
                self.scanned += 1
                yield name, tensor


def open_stored(folder: CheckpointFolder) -> StoredTensors:
    """Open a checkpoint's weight files for reading.

    Raises:
        DamagedFileError: If one is no such file, or is not whole.
        CheckpointError: If there are none.
    """
    return StoredTensors({path.name: _open_file(path, folder) for path in folder.weight_files})


def _open_file(path: Path, folder: CheckpointFolder) -> TensorFile:
    if path.suffix == ".safetensors":
        return _Safetensors(path, folder.headers[path.name])
    return _Gguf(path) if path.suffix == ".gguf" else _Pickle(path)


class _Safetensors(TensorFile):
    def __init__(self, path: Path, headers: Mapping[str, TensorHeader]) -> None:
        self.path, self.headers = path, headers

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, framework="pt")

    def read(self, name: str) -> Tensor | None:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except Exception:  # a dtype that torch has not; the library has errors of its own for that
            return None
        return tensor


class _Pickle(TensorFile):
    """A file of torch; only tensors are read from it, and no code runs."""

    def __init__(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self._tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        except Exception as error:  # pickles fail in every way there is
            found = f"{path.name} does not read as a file of tensors ({type(error).__name__})"
            raise DamagedFileError(found, "convert it to safetensors where it was made", path.name) from error
        self.headers = {
            name: TensorHeader(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), path.name)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Tensor | None:
        return self._tensors[name]


class _Gguf(TensorFile):
    """A file of llama.cpp; without the package `gguf`, of which opening complains, nothing of it is read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(_GGUF)) != _GGUF:
                raise DamagedFileError(f"{path.name} is not a GGUF file", "download it again", path.name)
        self._tensors: dict[str, Any] = {}
        if find_spec("gguf") is not None:
            from gguf import GGUFReader

            try:
                self._tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
            except Exception as error:  # numpy complains of a file that is cut off, in its own words
                found = f"{path.name} is cut off or damaged ({type(error).__name__})"
                raise DamagedFileError(found, "download it again", path.name) from error
        self.headers = {
            name: TensorHeader(
                tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape)), path.name
            )
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Tensor | None:
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        try:
            # What is read is mapped and cannot be written to, which torch warns of.
            return torch.tensor(dequantize(tensor.data, tensor.tensor_type)).reshape(self.headers[name].shape)
        except NotImplementedError:
            return None
