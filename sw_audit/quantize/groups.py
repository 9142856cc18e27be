"""Scaling groups as views of a matrix, and how they are cut into pieces that fit into a cache."""

from __future__ import annotations

from typing import TypeAlias

import torch

from sw_audit.policy.recipe import Granularity, PerBlock, PerGroup, PerRow, PerRun

Place: TypeAlias = tuple[slice, slice, slice, slice]
"""Where a piece lies in a view of [bands, height, parts, width]."""

_ALL = slice(None)


def split_groups(matrix: torch.Tensor, granularity: Granularity) -> tuple[torch.Tensor, ...]:
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
            flat = matrix.view(1, -1)  # in row-major order of (out, in)
            return tuple(_split_blocks(flat, 1, size))
        case PerBlock(rows=height, columns=width):
            return tuple(_split_blocks(matrix, height, width))
        case PerGroup(size=size):
            return tuple(_split_blocks(matrix, 1, size))
        case PerRow():
            return tuple(_split_blocks(matrix, 1, columns))
        case _:
            return tuple(_split_blocks(matrix, rows, columns))


def cut_pieces(shape: torch.Size, limit: int) -> list[list[Place]]:
    """Cut a view into batches of whole groups, and each batch into pieces.

    As many whole groups as fit go into one piece; a group that does not fit is cut into several pieces.

    Args:
        shape: [bands, height, parts, width], as `split_groups` returns it.
        limit: At most so many weights in a piece.

    Returns:
        Per batch its pieces, which differ only in what they span of height and width.
    """
    bands, height, parts, width = shape
    band, group = height * parts * width, height * width
    if band <= limit:
        return [[(part, _ALL, _ALL, _ALL)] for part in _cut(bands, limit // band)]
    if group <= limit:
        across = _cut(parts, limit // group)
        return [[(one, _ALL, part, _ALL)] for one in _cut(bands, 1) for part in across]
    together = max(1, min(parts, limit // width))
    tall = max(1, limit // (together * width))
    return [
        [(one, high, part, wide) for high in _cut(height, tall) for wide in _cut(width, limit)]
        for one in _cut(bands, 1)
        for part in _cut(parts, together)
    ]


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _split_blocks(matrix: torch.Tensor, rows: int, columns: int) -> list[torch.Tensor]:
    return [
        part.view(len(part) // height, height, part.shape[1] // width, width)
        for band, height in _split_edge(matrix, 0, rows)
        for part, width in _split_edge(band, 1, columns)
    ]


def _split_edge(matrix: torch.Tensor, dimension: int, size: int) -> list[tuple[torch.Tensor, int]]:
    """Split off what is left over when a dimension is cut into pieces of a size."""
    length = matrix.shape[dimension]
    rest = length % size
    parts = [
        (matrix.narrow(dimension, 0, length - rest), size),
        (matrix.narrow(dimension, length - rest, rest), rest),
    ]
    return [(part, piece) for part, piece in parts if part.numel()]
