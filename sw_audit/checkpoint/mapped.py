"""The tensors of a checkpoint's files, mapped into memory: a page is read when it is first looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.lazy_tensor import LazyTensor


class UnknownDtypeError(Exception):
    """A tensor in a dtype that cannot be mapped."""


class MappedFiles:
    """The tensors of some safetensors files.

    Nothing is copied: what is returned are views of the files. A file is opened anew for each call, for with the
    last view the mapping goes, and with it every page that was looked at.

    Args:
        folder: The checkpoint; a tensor in several of its files is taken from the last.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._files = {name: path for path in folder.weight_files for name in folder.headers[path.name]}

    def list_lazy(self) -> dict[str, LazyTensor]:
        """Let a tensor without data stand for each one.

        Raises:
            UnknownDtypeError: If torch has none of its dtype.
        """
        return {
            name: LazyTensor.of(name, tensor.shape, tensor.dtype)
            for name, tensor in self.map_tensors(self._files).items()
        }

    def map_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors, those of one file together.

        Args:
            names: Their names.

        Returns:
            The tensors by name, as stored. Writing into one would not change the file.

        Raises:
            UnknownDtypeError: If torch has none of its dtype.
        """
        by_file: defaultdict[Path, list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            by_file[self._files[name]].append(name)
        tensors: dict[str, Tensor] = {}
        for path, inside in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in inside:
                    try:
                        tensors[name] = file.get_tensor(name)
                    except (SafetensorError, AttributeError) as error:
                        stored = self.folder.headers[path.name][name].dtype
                        raise UnknownDtypeError(f"tensor {name!r} is stored as {stored}") from error
        return tensors

    def map_tensor(self, name: str) -> Tensor:
        """Map one tensor."""
        return self.map_tensors([name])[name]
