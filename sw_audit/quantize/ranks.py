"""Exact percentiles of scaling groups of any size, found digit by digit, without sorting or copying them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sw_audit.quantize.batch import Batch, Piece

_DIGIT = 8
_BINS = 2**_DIGIT


def select_ranks(batch: Batch, percent: float, *, magnitudes: bool) -> Tensor:
    """Return each group's percentile: the smallest number that at least so many percent are not larger than.

    Radix selection: numbers are read as integers of the same order; each pass over the pieces counts one more
    digit of eight bits of those that share the digits found so far.

    Args:
        batch: The groups; held-out weights do not count.
        percent: Above 0, at most 100.
        magnitudes: Of |w|, not of w.

    Returns:
        [groups, 1], each one of the group's own numbers; 0 for a group that is held out altogether.
    """
    integer = torch.int64 if batch.material.source.dtype is torch.float64 else torch.int32
    top = torch.iinfo(integer).bits - _DIGIT
    found = wanted = total = torch.empty(0)

    def count(piece: Piece, shift: int) -> Tensor:
        keys = _order(piece.numbers.abs() if magnitudes else piece.numbers, integer)
        alike = None if shift == top else (keys >> (shift + _DIGIT)) == found
        if piece.absent is not None:
            alike = ~piece.absent if alike is None else alike & ~piece.absent
        digits = keys >> shift
        # The first digit holds the sign: from -128, not from 0.
        return _count_digits(digits + _BINS // 2 if shift == top else digits & (_BINS - 1), alike)

    for shift in range(top, -1, -_DIGIT):
        counts = torch.stack(batch.each(partial(count, shift=shift))).sum(0)  # [groups, bins]
        if shift == top:
            total = counts.sum(1, keepdim=True)
            # The product may exceed a whole number by its rounding error, which is no weight more.
            wanted = torch.ceil(total.double() * (percent / 100) * (1 - 1e-12)).long().clamp_(min=1)
        reached = counts.cumsum(1)
        digit = (reached < wanted).sum(1, keepdim=True).clamp_(max=_BINS - 1)
        wanted = wanted - (reached - counts).gather(1, digit)
        found = digit - _BINS // 2 if shift == top else (found << _DIGIT) | digit
    return _restore(found.to(integer)).masked_fill_(total == 0, 0.0)


def _count_digits(digits: Tensor, alike: Tensor | None) -> Tensor:
    """Count per group how often each digit occurs, [groups, bins], among those that count."""
    groups = len(digits)
    places = digits + _BINS * torch.arange(groups, device=digits.device, dtype=digits.dtype)[:, None]
    if alike is not None:
        places.masked_fill_(~alike, groups * _BINS)
    counts: Tensor = places.view(-1).bincount(minlength=groups * _BINS + 1)
    return counts[:-1].view(groups, _BINS)


def _order(numbers: Tensor, integer: torch.dtype) -> Tensor:
    """Return integers in the order of the numbers."""
    return _mirror(numbers.view(integer))


def _mirror(bits: Tensor) -> Tensor:
    # Negative floats are ordered backwards; this is its own inverse.
    return bits ^ ((bits >> (torch.iinfo(bits.dtype).bits - 1)) & torch.iinfo(bits.dtype).max)


def _restore(keys: Tensor) -> Tensor:
    return _mirror(keys).view(torch.float64 if keys.dtype is torch.int64 else torch.float32)
