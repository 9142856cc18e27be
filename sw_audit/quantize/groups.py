"""Scaling groups as views of a matrix: no copy, no padding, whatever the recipe's granularity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sw_audit.facts.recipe import Granularity, PerBlock, PerRow, PerRun


@dataclass(frozen=True)
class Region:
    """A part of a matrix in which all scaling groups have one size.

    Attributes:
        view: View of the part, of any number of dimensions, sharing the matrix's storage.
        inner: The dimensions of the view that one group spans; the others count groups.
    """

    view: torch.Tensor
    inner: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many weights one group holds."""
        size = 1
        for dimension in self.inner:
            size *= self.view.shape[dimension]
        return size


def split_groups(matrix: torch.Tensor, granularity: Granularity) -> tuple[Region, ...]:
    """Cut a matrix into regions of equally large scaling groups; together they hold every weight once.

    Blocks and runs that do not divide the matrix leave smaller ones at its lower and right edge, in
    regions of their own. (The paper's released code makes one group of the whole matrix in that case.)

    Args:
        matrix: Contiguous, [rows, columns].
        granularity: What shares one scale.
    """
    match granularity:
        case PerBlock(rows=rows, columns=columns):
            return _split_blocks(matrix, rows, columns)
        case PerRun(size=size):
            # [weights] in row-major order of (out, in)
            return tuple(Region(run, (1,)) for run in _split_runs(matrix.view(-1), size))
        case PerRow():
            return (Region(matrix, (1,)),)
        case _:
            return (Region(matrix, (0, 1)),)


def _split_runs(flat: torch.Tensor, size: int) -> list[torch.Tensor]:
    whole = flat.numel() // size * size
    # [runs, size] and the shorter last run, [1, rest]
    parts = [flat[:whole].view(-1, size), flat[whole:].view(1, -1)]
    return [part for part in parts if part.numel()]


def _split_blocks(matrix: torch.Tensor, rows: int, columns: int) -> tuple[Region, ...]:
    regions = []
    for band, height in _split_edge(matrix, 0, rows):
        for part, width in _split_edge(band, 1, columns):
            # [bands, height, parts, width]
            blocks = part.view(len(part) // height, height, part.shape[1] // width, width)
            regions.append(Region(blocks, (1, 3)))
    return tuple(regions)


def _split_edge(matrix: torch.Tensor, dimension: int, size: int) -> list[tuple[torch.Tensor, int]]:
    """Split off what is left over when a dimension is cut into pieces of a size."""
    length = matrix.shape[dimension]
    rest = length % size
    parts = [
        (matrix.narrow(dimension, 0, length - rest), size),
        (matrix.narrow(dimension, length - rest, rest), rest),
    ]
    return [(part, piece) for part, piece in parts if part.numel()]
