"""Where the range of a scaling group ends: at its smallest and largest weight, or where outliers are clipped."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from sw_audit.policy.clip import IqrClip, PercentileClip, ZScoreClip
from sw_audit.quantize.batch import Batch, Piece
from sw_audit.quantize.ranks import select_ranks


class Range(NamedTuple):
    """Both ends of a range per group, [groups, 1] each."""

    low: Tensor
    high: Tensor


def find_range(batch: Batch) -> Range:
    """Return the smallest and the largest weight of each group, held-out ones left out; 0 if all are."""
    found = batch.each(_read_range)
    low = reduce(torch.minimum, (one.low for one in found))
    high = reduce(torch.maximum, (one.high for one in found))
    if batch.material.absent is None:
        return Range(low, high)
    empty = low > high
    return Range(low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0))


def clip_range(data: Range, bounds: Range) -> Range:
    """Return the range of weights that are moved to the nearer bound where they are outside."""
    return Range(*(torch.minimum(torch.maximum(end, bounds.low), bounds.high) for end in data))


def find_bounds(batch: Batch, clip: ZScoreClip | PercentileClip | IqrClip) -> Range:
    """Return where each group is clipped, held-out weights left out of account; see the clip's own docstring.

    Standard deviations are the population's, so that a group of one weight has one.
    """
    match clip:
        case ZScoreClip(z=z, of="magnitude"):
            mean, deviation = _find_moments(batch, magnitudes=True)
            return _make_symmetric(mean + z * deviation)
        case ZScoreClip(z=z):
            mean, deviation = _find_moments(batch, magnitudes=False)
            return Range(mean - z * deviation, mean + z * deviation)
        case PercentileClip(percent=percent):
            return _make_symmetric(select_ranks(batch, percent, magnitudes=True))
        case IqrClip(factor=factor):
            lower, upper = (select_ranks(batch, percent, magnitudes=False) for percent in (25, 75))
            return Range(lower - factor * (upper - lower), upper + factor * (upper - lower))


def _make_symmetric(threshold: Tensor) -> Range:
    return Range(-threshold, threshold)


def _read_range(piece: Piece) -> Range:
    numbers, absent = piece.numbers, piece.absent
    lows = numbers if absent is None else numbers.masked_fill(absent, torch.inf)
    highs = numbers if absent is None else numbers.masked_fill(absent, -torch.inf)
    return Range(lows.amin(1, keepdim=True), highs.amax(1, keepdim=True))


def _find_moments(batch: Batch, *, magnitudes: bool) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each group's |w|, or of its w, [groups, 1] each."""

    def read(piece: Piece) -> Tensor:
        return piece.numbers.abs() if magnitudes else piece.numbers

    def add(piece: Piece) -> tuple[Tensor, Tensor]:
        return read(piece).sum(1, keepdim=True), _count_present(piece)

    def add_squares(piece: Piece) -> Tensor:
        squares = read(piece).sub(mean).square_()
        if piece.absent is not None:
            squares.masked_fill_(piece.absent, 0.0)
        return squares.sum(1, keepdim=True)

    sums, counts = zip(*batch.each(add), strict=True)
    count = torch.stack(counts).sum(0).clamp_(min=1)
    mean = torch.stack(sums).sum(0) / count
    return mean, (torch.stack(batch.each(add_squares)).sum(0) / count).sqrt_()


def _count_present(piece: Piece) -> Tensor:
    groups, members = piece.numbers.shape
    counts = torch.full((groups, 1), members, device=piece.numbers.device)
    return counts if piece.absent is None else counts - piece.absent.sum(1, keepdim=True)
