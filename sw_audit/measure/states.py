"""Keeps hidden states in memory as far as they fit, and on disk beyond that.

What is put in comes back with the same bits. Files are written and read plainly, not mapped, so that nothing of
them counts as memory of the process; they lie in a temporary folder, and go with the last reference to a state.
"""

from __future__ import annotations

import itertools
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import OutputError
from sw_audit.leftovers import find_disk, make_folder


class StateStore:
    """Keeps tensors, `limit` bytes of them in memory; `None` keeps all there.

    What is put in first stays in memory until it is let go: tensors are gone through in the same order again and
    again, and whatever was used last would be needed last. Tensors of other devices than the CPU stay where they
    are. At the end of a `with` block, or with the store itself, all files are gone.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit, self._used = limit, 0
        self._names = itertools.count()
        self._folder: Path | None = None
        self._remover: weakref.finalize[..., StateStore] | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, share: int = 2) -> StateStore:
        """Return a store in which this part, one `share`th, of a checkpoint's memory may be kept."""
        return cls(None if checkpoint.memory is None else checkpoint.memory // share)

    def __enter__(self) -> StateStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._remover is not None:
            self._remover()

    def keep(self, tensor: Tensor) -> KeptState:
        """Keep a tensor of any dtype and layout; its gradient is not.

        Raises:
            OutputError: If it cannot be written to disk.
        """
        size = tensor.untyped_storage().nbytes() if tensor.device.type == "cpu" else 0
        if self._limit is None or not size or self._used + size <= self._limit:
            self._used += size
            return KeptState(self, size, tensor)
        return self._write(tensor.detach())

    def _write(self, tensor: Tensor) -> KeptState:
        dense = tensor if tensor.is_contiguous() else tensor.clone()  # which keeps the order of dimensions
        path = self._make_place() / f"{next(self._names)}.bin"
        kept = KeptState(self, 0, None, path, tensor.dtype, dense.shape, dense.stride())
        flat = dense.as_strided((dense.numel(),), (1,), dense.storage_offset())
        try:
            with path.open("xb", buffering=0) as file:
                left = flat.view(torch.uint8).numpy().data
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            found = error.strerror or str(error)
            remedy = "free some space there, set TMPDIR to a folder on a larger disk, or give more --memory"
            raise OutputError(f"hidden states in {path.parent.parent}", found, remedy) from error
        return kept

    def _make_place(self) -> Path:
        if self._folder is None:
            asked, remedy = "hidden states that outgrow --memory", "set TMPDIR to a folder on a disk, or give more"
            if (place := find_disk()) is None:
                raise OutputError(asked, "the folder for temporary files is itself kept in memory", remedy)
            try:
                self._folder = make_folder(place)
            except OSError as error:
                raise OutputError(f"{asked}, in {place}", error.strerror or str(error), remedy) from error
            self._remover = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _let_go(self, size: int) -> None:
        self._used -= size


@dataclass(eq=False)
class KeptState:
    """One tensor that a store keeps, until nobody refers to this any more."""

    _store: StateStore
    _size: int
    _tensor: Tensor | None = None
    _path: Path = Path()
    _dtype: torch.dtype = torch.float32
    _shape: tuple[int, ...] = ()
    _strides: tuple[int, ...] = ()

    def load(self) -> Tensor:
        """Return the tensor: itself where it is in memory, else a new one with the same bits and layout.

        Raises:
            OutputError: If its file is gone or cannot be read.
        """
        if self._tensor is not None:
            return self._tensor
        flat = torch.empty(torch.Size(self._shape).numel(), dtype=self._dtype)
        try:
            if self._path.stat().st_size != flat.nbytes:
                raise OSError("it was cut short")
            with self._path.open("rb", buffering=0) as file:
                left = flat.view(torch.uint8).numpy().data
                while left and (count := file.readinto(left)):
                    left = left[count:]
        except OSError as error:
            found, remedy = error.strerror or str(error), "leave the folder of temporary files alone during a run"
            raise OutputError(f"hidden states in {self._path.parent}", found, remedy) from error
        return flat.as_strided(self._shape, self._strides)

    def __del__(self) -> None:
        self._store._let_go(self._size)
        if self._tensor is None:
            try:  # noqa: SIM105 - as the program ends, what a module imported may be gone before this
                self._path.unlink()
            except OSError:
                pass


@dataclass(eq=False)
class States:
    """Hidden states of one arm, [batch]; each is loaded when it is asked for."""

    store: StateStore
    _kept: list[KeptState | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, batch: int) -> Tensor:
        kept = self._kept[batch]
        if kept is None:
            raise LookupError(f"the states of batch {batch} were let go")
        return kept.load()

    def __iter__(self) -> Iterator[Tensor]:
        for batch in range(len(self)):
            yield self[batch]

    def append(self, states: Tensor) -> None:
        """Add the next batch."""
        self._kept.append(self.store.keep(states))

    def append_same(self, other: States) -> None:
        """Add what another has as its batch of this number, without a copy."""
        self._kept.append(other._kept[len(self)])

    def let_go(self, batch: int) -> None:
        """Keep the states of one batch no longer."""
        self._kept[batch] = None

    def copy(self) -> States:
        """Return the same states, to be let go by themselves."""
        return States(self.store, [*self._kept])
