"""Scaling groups as views of a matrix, worked on in pieces that fit into a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from sw_audit.policy.recipe import Granularity, PerBlock, PerGroup, PerRow, PerRun

Place: TypeAlias = tuple[slice, slice, slice, slice]
"""Where a piece lies in a view of [bands, height, parts, width]."""

_ALL = slice(None)
Result = TypeVar("Result")

# Four MiB of float32: small enough to stay in a cache, large enough that what a call of torch costs does not show,
# and that torch shares each operation among its threads, which measured better than threads of Python.
CACHE_SIZED = 2**20
DEVICE_SIZED = 2**24


def split_groups(matrix: Tensor, granularity: Granularity) -> tuple[Tensor, ...]:
    """View a matrix as regions of equally large scaling groups; together they hold every weight once.

    Blocks, groups and runs that do not divide the matrix leave smaller ones at its lower and right edge, in
    regions of their own. (The paper's released code makes one group of the whole matrix in that case.)

    Args:
        matrix: [rows, columns]; contiguous if the groups are flat runs.
        granularity: What shares one scale.

    Returns:
        Views [bands, height, parts, width] that share the matrix's storage: `bands x parts` groups, each of
        `height x width` weights. Matrices of one shape are viewed alike, whatever their dtype.
    """
    rows, columns = matrix.shape
    match granularity:
        case PerRun(size=size):
            matrix, rows, columns = matrix.view(1, -1), 1, size  # in row-major order of (out, in)
        case PerBlock(rows=height, columns=width):
            rows, columns = height, width
        case PerGroup(size=size):
            rows, columns = 1, size
        case PerRow():
            rows = 1
    return tuple(
        part.view(len(part) // height, height, part.shape[1] // width, width)
        for band, height in _split_edge(matrix, 0, rows)
        for part, width in _split_edge(band, 1, columns)
    )


def cut_pieces(shape: torch.Size, limit: int) -> list[list[Place]]:
    """Cut a view into batches of whole groups, and each batch into pieces.

    As many whole groups as fit go into one piece; a group that does not fit is cut into several pieces. The shape
    is [bands, height, parts, width], as `split_groups` returns it; a piece has at most `limit` weights. The pieces
    of a batch differ only in what they span of height and width.
    """
    bands, height, parts, width = shape
    band_size, group_size = height * parts * width, height * width
    if band_size <= limit:
        return [[(part, _ALL, _ALL, _ALL)] for part in _cut(bands, limit // band_size)]
    if group_size <= limit:
        across = _cut(parts, limit // group_size)
        return [[(band, _ALL, part, _ALL)] for band in _cut(bands, 1) for part in across]
    together = max(1, min(parts, limit // width))
    tall = max(1, limit // (together * width))
    return [
        [(band, high, part, wide) for high in _cut(height, tall) for wide in _cut(width, limit)]
        for band in _cut(bands, 1)
        for part in _cut(parts, together)
    ]


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _split_edge(matrix: Tensor, dimension: int, size: int) -> list[tuple[Tensor, int]]:
    """Split off what is left over when a dimension is cut into pieces of a size."""
    length = matrix.shape[dimension]
    rest = length % size
    parts = [
        (matrix.narrow(dimension, 0, length - rest), size),
        (matrix.narrow(dimension, length - rest, rest), rest),
    ]
    return [(part, piece) for part, piece in parts if part.numel()]


@dataclass(frozen=True, eq=False)
class Scratch:
    """Memory that pieces are copied into, one after the other: fresh memory for each takes a tenth longer."""

    _held: dict[str, Tensor] = field(default_factory=dict)

    def arrange(self, role: str, view: Tensor, dtype: torch.dtype) -> Tensor:
        """Copy a piece [bands, height, parts, width] group by group: [groups, members].

        The next piece of the same role takes its place.
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
        numbers: [groups, members], float32 or float64; 0 where weights are kept.
        kept: Bool, likewise: the weights that are kept in full precision; `None` if none is.
        importance: Likewise, float32: how much each one's error counts; `None` if all count alike.
    """

    numbers: Tensor
    kept: Tensor | None
    importance: Tensor | None


@dataclass(frozen=True, eq=False)
class Material:
    """What is worked on, as matrices [rows, columns] or as alike views of them.

    Attributes:
        source: Where weights are read.
        target: Where they are written; may be the source.
        kept: Which are kept in full precision, bool; `None` if none is.
        importance: How much each one's error counts, floating; `None` if all count alike.
        scratch: Where pieces are worked on.
    """

    source: Tensor
    target: Tensor
    kept: Tensor | None = None
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
        material, arrange = self.material, self.material.scratch.arrange
        dtype = torch.float64 if material.source.dtype is torch.float64 else torch.float32
        kept = None if material.kept is None else arrange("kept", material.kept[place], torch.bool)
        if kept is not None and not kept.any():
            kept = None
        importance = (
            None if material.importance is None else arrange("importance", material.importance[place], dtype)
        )
        numbers = arrange("numbers", material.source[place], dtype)
        if kept is not None:
            numbers.masked_fill_(kept, 0.0)
        return Piece(numbers, kept, importance)


def cut_batches(material: Material, granularity: Granularity) -> Iterator[Batch]:
    """Cut a matrix into batches of whole groups, to be worked on one after the other."""
    limit = CACHE_SIZED if material.source.device.type == "cpu" else DEVICE_SIZED
    sources = split_groups(material.source, granularity)

    def split(matrix: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * len(sources) if matrix is None else split_groups(matrix, granularity)

    targets = split_groups(material.target, granularity)
    for views in zip(sources, targets, split(material.kept), split(material.importance), strict=True):
        region = Material(*views, material.scratch)
        for places in cut_pieces(region.source.shape, limit):
            yield Batch(region, places)
