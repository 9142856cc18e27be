"""Where the range of a scaling group ends: at its smallest and largest weight, or where outliers are clipped."""

from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from sw_audit.policy.recipe import IqrClip, PercentileClip, Recipe, ZScoreClip
from sw_audit.quantize.batches import Batch, Piece
from sw_audit.quantize.grid import Grid

# From the whole range down to 1 / 147 of it: a super weight is up to some hundred times its group's bulk.
FACTORS = tuple(2 ** (-step / 5) for step in range(37))
_DIGIT = 8
_BINS = 2**_DIGIT


class Range(NamedTuple):
    """Both ends of a range per group, [groups, 1] each."""

    low: Tensor
    high: Tensor


def find_range(batch: Batch) -> Range:
    """Return the smallest and the largest weight of each group, those that are kept left out; 0 if all are."""
    ranges = batch.each(_read_range)
    low = reduce(torch.minimum, (piece.low for piece in ranges))
    high = reduce(torch.maximum, (piece.high for piece in ranges))
    if batch.material.kept is None:
        return Range(low, high)
    empty = low > high
    return Range(low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0))


def clip_range(data: Range, bounds: Range) -> Range:
    """Return the range of weights that are moved to the nearer bound where they are outside."""
    return Range(*(torch.minimum(torch.maximum(end, bounds.low), bounds.high) for end in data))


def find_bounds(batch: Batch, clip: ZScoreClip | PercentileClip | IqrClip) -> Range:
    """Return where each group is clipped, kept weights left out of account; see the clip's own docstring.

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
    numbers, kept = piece.numbers, piece.kept
    lows = numbers if kept is None else numbers.masked_fill(kept, torch.inf)
    highs = numbers if kept is None else numbers.masked_fill(kept, -torch.inf)
    return Range(lows.amin(1, keepdim=True), highs.amax(1, keepdim=True))


def _find_moments(batch: Batch, *, magnitudes: bool) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each group's |w|, or of its w, [groups, 1] each."""

    def read(piece: Piece) -> Tensor:
        return piece.numbers.abs() if magnitudes else piece.numbers

    def add(piece: Piece) -> tuple[Tensor, Tensor]:
        return read(piece).sum(1, keepdim=True), _count_present(piece)

    def add_squares(piece: Piece) -> Tensor:
        squares = read(piece).sub(mean).square_()
        if piece.kept is not None:
            squares.masked_fill_(piece.kept, 0.0)
        return squares.sum(1, keepdim=True)

    sums, counts = zip(*batch.each(add), strict=True)
    count = torch.stack(counts).sum(0).clamp_(min=1)
    mean = torch.stack(sums).sum(0) / count
    return mean, (torch.stack(batch.each(add_squares)).sum(0) / count).sqrt_()


def _count_present(piece: Piece) -> Tensor:
    groups, members = piece.numbers.shape
    counts = torch.full((groups, 1), members, device=piece.numbers.device)
    return counts if piece.kept is None else counts - piece.kept.sum(1, keepdim=True)


def search_bounds(batch: Batch, recipe: Recipe, data: Range) -> Range:
    """Return the bounds, of those at `FACTORS` times each group's largest |w|, that make the smallest error.

    The error is the sum over the group of importance * (w' - w) ** 2, of what clipping and rounding do together;
    importance is 1 where none is given. Of equal errors the wider bounds win. The whole range is among them, so
    that no sum is larger than without clipping.
    """
    largest = torch.maximum(data.low.abs(), data.high.abs())
    best = torch.full_like(largest, torch.inf)
    chosen = largest.clone()
    for factor in FACTORS:
        threshold = largest * factor
        grid = Grid(recipe, *clip_range(data, Range(-threshold, threshold)), clipped=True)
        error = torch.stack(batch.each(partial(_add_errors, grid=grid))).sum(0)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, threshold, chosen)
    return Range(-chosen, chosen)


def _add_errors(piece: Piece, grid: Grid) -> Tensor:
    errors = grid.snap_(piece.numbers.clone()).sub_(piece.numbers).square_()
    if piece.importance is not None:
        errors.mul_(piece.importance)
    if piece.kept is not None:
        errors.masked_fill_(piece.kept, 0.0)
    return errors.sum(1, keepdim=True)


def select_ranks(batch: Batch, percent: float, *, magnitudes: bool) -> Tensor:
    """Return each group's percentile: the smallest number that at least so many percent are not larger than.

    Radix selection: numbers are read as integers of the same order; each pass over the pieces counts one more
    digit of eight bits of those that share the digits found so far. Returns [groups, 1], each one of the group's
    own numbers; 0 for a group that is kept altogether.
    """
    integer = torch.int64 if batch.material.source.dtype is torch.float64 else torch.int32
    top = torch.iinfo(integer).bits - _DIGIT
    prefix = rank = total = torch.empty(0)

    def count(piece: Piece, shift: int) -> Tensor:
        keys = _mirror((piece.numbers.abs() if magnitudes else piece.numbers).view(integer))
        alike = None if shift == top else (keys >> (shift + _DIGIT)) == prefix
        if piece.kept is not None:
            alike = ~piece.kept if alike is None else alike & ~piece.kept
        digits = keys >> shift
        # The first digit holds the sign: from -128, not from 0.
        return _count_digits(digits + _BINS // 2 if shift == top else digits & (_BINS - 1), alike)

    for shift in range(top, -1, -_DIGIT):
        counts = torch.stack(batch.each(partial(count, shift=shift))).sum(0)  # [groups, bins]
        if shift == top:
            total = counts.sum(1, keepdim=True)
            # The product may exceed a whole number by its rounding error, which is no weight more.
            rank = torch.ceil(total.double() * (percent / 100) * (1 - 1e-12)).long().clamp_(min=1)
        reached = counts.cumsum(1)
        digit = (reached < rank).sum(1, keepdim=True).clamp_(max=_BINS - 1)
        rank = rank - (reached - counts).gather(1, digit)
        prefix = digit - _BINS // 2 if shift == top else (prefix << _DIGIT) | digit
    floating = torch.float64 if integer is torch.int64 else torch.float32
    return _mirror(prefix.to(integer)).view(floating).masked_fill_(total == 0, 0.0)


def _count_digits(digits: Tensor, alike: Tensor | None) -> Tensor:
    groups = len(digits)
    places = digits + _BINS * torch.arange(groups, device=digits.device, dtype=digits.dtype)[:, None]
    if alike is not None:
        places.masked_fill_(~alike, groups * _BINS)
    counts: Tensor = places.view(-1).bincount(minlength=groups * _BINS + 1)
    return counts[:-1].view(groups, _BINS)


def _mirror(bits: Tensor) -> Tensor:
    # Gives integers in the order of the numbers: negative floats are ordered backwards. It is its own inverse.
    return bits ^ ((bits >> (torch.iinfo(bits.dtype).bits - 1)) & torch.iinfo(bits.dtype).max)
