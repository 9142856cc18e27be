"""The tensors of a checkpoint's files, mapped into memory: a page is read when it is first looked at."""

from __future__ import annotations

import math
import mmap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sw_audit.checkpoint.headers import TensorHeader, read_header

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class UnknownDtypeError(Exception):
    """A tensor in a dtype that cannot be mapped."""


class MappedFiles:
    """The tensors of some safetensors files.

    Nothing is copied. What `map_tensors` returns are views of the files; with the last of them the mapping goes,
    and with it every page that was looked at.

    Args:
        paths: The files; a tensor in several of them is taken from the last.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        self._headers: dict[str, TensorHeader] = {}
        for path in paths:
            header = read_header(path)
            self._headers |= header
            self._files |= dict.fromkeys(header, path)

    @property
    def headers(self) -> Mapping[str, TensorHeader]:
        """What the headers say, by name."""
        return self._headers

    def find_dtype(self, name: str) -> torch.dtype:
        """Return a tensor's dtype.

        Raises:
            UnknownDtypeError: If torch has none like it.
        """
        stored = self._headers[name].dtype
        if stored not in _DTYPES:
            raise UnknownDtypeError(f"tensor {name!r} is stored as {stored}")
        return _DTYPES[stored]

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors, those of one file together.

        Args:
            names: Their names.

        Returns:
            The tensors by name, as stored. Writing into one would not change the file.
        """
        by_file: defaultdict[Path, list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            by_file[self._files[name]].append(name)
        return {name: one for path, inside in by_file.items() for name, one in self._map(path, inside)}

    def map_tensor(self, name: str) -> Tensor:
        """Map one tensor."""
        return self.map_tensors([name])[name]

    def _map(self, path: Path, names: list[str]) -> Iterable[tuple[str, Tensor]]:
        headers = [self._headers[name] for name in names]
        # Mappings begin at multiples of the granularity.
        begin = min(one.start for one in headers) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        length = max(one.stop for one in headers) - begin
        with path.open("rb") as file:
            # Copy on write: torch knows no tensors that cannot be written to.
            memory = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=begin)
        for name, header in zip(names, headers, strict=True):
            dtype, count = self.find_dtype(name), math.prod(header.shape)
            if count:
                flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=header.start - begin)
                yield name, flat.view(header.shape)
            else:
                yield name, torch.empty(header.shape, dtype=dtype)
