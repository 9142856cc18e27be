"""Whole scaling groups that are worked on together, piece by piece, in a scratch that stays in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from sw_audit.policy.recipe import Granularity
from sw_audit.quantize.groups import Place, cut_pieces, split_groups

Result = TypeVar("Result")

# Four MiB of float32: small enough to stay in a cache, large enough that what a call of torch costs does not show,
# and that torch shares each operation among its threads, which measured better than threads of Python.
CACHE_SIZED = 2**20
DEVICE_SIZED = 2**24


@dataclass(frozen=True, eq=False)
class Scratch:
    """ArmCache that pieces are brought into, one after the other: fresh memory for each takes a tenth longer."""

    _held: dict[str, Tensor] = field(default_factory=dict)

    def arrange(self, role: str, view: Tensor, dtype: torch.dtype) -> Tensor:
        """Copy a piece [bands, height, parts, width] group by group: [groups, members].

        Args:
            role: What it is; the next piece of the same role takes its place.
            view: The piece.
            dtype: What it is converted to.
        """
        bands, height, parts, width = view.shape
        held = self._held.get(role)
        if held is None or held.numel() < view.numel() or held.dtype is not dtype:
            held = self._held[role] = torch.empty(view.numel(), dtype=dtype, device=view.device)
        place = held[: view.numel()].view(bands, parts, height, width)
        return place.copy_(view.permute(0, 2, 1, 3)).view(bands * parts, height * width)


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a batch, brought into the scratch; the next piece takes its place.

    Attributes:
        numbers: [groups, members], float32 or float64; 0 where weights are held out.
        absent: Bool, likewise: the weights that are held out; `None` if none of them is.
        importance: Likewise, float32: how much each one's error counts; `None` if all count alike.
    """

    numbers: Tensor
    absent: Tensor | None
    importance: Tensor | None


@dataclass(frozen=True, eq=False)
class Material:
    """What is worked on, as matrices [rows, columns] or as alike views of them.

    Attributes:
        source: Where weights are read.
        target: Where they are written; may be the source.
        absent: Which are held out, bool; `None` if none is.
        importance: How much each one's error counts, floating; `None` if all count alike.
        scratch: Where pieces are worked on.
    """

    source: Tensor
    target: Tensor
    absent: Tensor | None = None
    importance: Tensor | None = None
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True, eq=False)
class Batch:
    """Whole groups of one region.

    Attributes:
        material: Views [bands, height, parts, width] of the region.
        places: The pieces of it that make up the batch.
    """

    material: Material
    places: Sequence[Place]

    def each(self, read: Callable[[Piece], Result]) -> list[Result]:
        """Read every piece, without writing into it."""
        return [read(self._whole or self._load(place)) for place in self.places]

    def change(self, write: Callable[[Tensor], object]) -> None:
        """Let every piece's numbers be written into, and write them to the target; this comes last."""
        for place in self.places:
            numbers = (self._whole or self._load(place)).numbers
            write(numbers)
            target = self.material.target[place].permute(0, 2, 1, 3)  # [bands, parts, height, width]
            target.copy_(numbers.view(target.shape))

    @cached_property
    def _whole(self) -> Piece | None:
        # What fits into one piece is loaded once.
        return self._load(self.places[0]) if len(self.places) == 1 else None

    def _load(self, place: Place) -> Piece:
        it, arrange = self.material, self.material.scratch.arrange
        dtype = torch.float64 if it.source.dtype is torch.float64 else torch.float32
        absent = None if it.absent is None else arrange("absent", it.absent[place], torch.bool)
        if absent is not None and not absent.any():
            absent = None
        importance = None if it.importance is None else arrange("importance", it.importance[place], dtype)
        numbers = arrange("numbers", it.source[place], dtype)
        if absent is not None:
            numbers.masked_fill_(absent, 0.0)
        return Piece(numbers, absent, importance)


def cut_batches(material: Material, granularity: Granularity) -> Iterator[Batch]:
    """Cut a matrix into batches of whole groups, to be worked on one after the other."""
    limit = CACHE_SIZED if material.source.device.type == "cpu" else DEVICE_SIZED
    sources = split_groups(material.source, granularity)

    def split(matrix: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * len(sources) if matrix is None else split_groups(matrix, granularity)

    targets = split_groups(material.target, granularity)
    for views in zip(sources, targets, split(material.absent), split(material.importance), strict=True):
        region = Material(*views, material.scratch)
        for places in cut_pieces(region.source.shape, limit):
            yield Batch(region, places)
