"""How alike two tensors of one shape are, as a whole and row by row, in one pass over both.

Independent tensors have a cosine near 0. Rounding to 4 bits leaves 0.99 of a tensor's own, to 2 bits 0.9, zeroing
half of it by magnitude 0.95, nine tenths 0.6; fine-tuning leaves more. So what is nearest is seen from far away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers of each tensor at once, so that what is computed of them stays in the processor's cache.
_SLAB = 1 << 18
# A row that rounding may have turned into anything: below so many times the typical error of a row, or so small a
# part of the median row. The typical error counts up to a part of that, or another's tensor would have no rows.
_ERRORS, _TINY, _MOST_ERROR = 4.0, 1e-3, 0.25
# Rows this short look like each other, or are turned around, by chance.
SHORT = 8
_FLIPPED, _STRANGE = -0.5, 0.5
_GRAM, _ROTATED = 64, 0.6
# So many rows are looked for elsewhere.
SOUGHT = 1024
_FOUND, _NEARER = 0.8, 0.5
_COARSE = 0.01
# Blocks of so many numbers along the input, of so many rows, show whether scales are those of other blocks: their
# factors are at most 4.5 times what noise explains after rounding, pruning, training or folding, 5.7 at 2 bits.
_BLOCK, _BLOCK_ROWS, _UNEVEN, _FACTOR = 32, 128, 6.0, 0.03


@dataclass(frozen=True)
class Lines:
    """Sums over each row, or each column, of two tensors: of products, of both squares, and of the first; float64.

    Attributes:
        products: [lines].
        ours: Squares of the descendant's, [lines].
        theirs: Squares of the parent's, [lines].
        sums: The descendant's own sums, [lines].
        length: How many numbers are in a line.
    """

    products: Tensor
    ours: Tensor
    theirs: Tensor
    sums: Tensor
    length: int

    @property
    def cosines(self) -> Tensor:
        """Cosine of each line with its own, float64 [lines]; 0 where one is zero."""
        return self.products / (self.ours * self.theirs).sqrt().clamp_min(torch.finfo(torch.float64).tiny)

    @property
    def errors(self) -> Tensor:
        """Distance of each line from its own, float64 [lines]."""
        return (self.ours + self.theirs - 2 * self.products).clamp_min(0).sqrt()

    @property
    def heavy(self) -> Tensor:
        """Which lines of the parent are large enough to be told from what rounding does, bool [lines]."""
        norms = self.theirs.sqrt()
        median = float(norms.median())
        floor = max(_ERRORS * min(float(self.errors.median()), _MOST_ERROR * median), _TINY * median)
        return (norms > floor) & (norms > 0)

    @property
    def coarse(self) -> bool:
        """Whether the median line was rounded, pruned or trained by more than one part in a hundred."""
        return float(self.errors.median()) > _COARSE * float(self.theirs.sqrt().median())

    @property
    def far(self) -> Tensor:
        """Which heavy lines are much farther from their own than the median line, bool [lines]."""
        typical = max(_ERRORS * float(self.errors.median()), _TINY * float(self.theirs.sqrt().median()))
        return self.heavy & (self.errors > typical) & (self.length >= SHORT)

    @property
    def zeroed(self) -> Tensor:
        """Which lines are zero now and were not, bool [lines]."""
        return (self.ours == 0) & self.heavy

    @property
    def flipped(self) -> Tensor:
        """Which lines point the other way, bool [lines]."""
        return (self.cosines < _FLIPPED) & self.heavy & (self.length >= SHORT)

    @property
    def strange(self) -> Tensor:
        """Which lines are not zero, and hardly resemble their own, bool [lines]."""
        alike = self.cosines.abs() >= _STRANGE
        return ~alike & (self.ours > 0) & self.heavy & (self.length >= SHORT)

    @property
    def level(self) -> Tensor:
        """Which lines may hold one number in every place, bool [lines]: their variance is nothing beside it."""
        spread = self.ours - self.sums**2 / self.length
        return (spread <= 1e-6 * self.ours) & (self.ours > 0) & self.heavy & (self.length >= SHORT)


@dataclass(frozen=True)
class Likeness:
    """How alike a tensor and its own in the parent are.

    Attributes:
        rows: By row.
        columns: By column.
    """

    rows: Lines
    columns: Lines

    @property
    def cosine(self) -> float:
        """Cosine of the two as a whole; 0 where one is zero."""
        ours, theirs = float(self.rows.ours.sum()), float(self.rows.theirs.sum())
        return float(self.rows.products.sum()) / (ours * theirs) ** 0.5 if ours * theirs > 0 else 0.0


def as_matrix(tensor: Tensor) -> Tensor:
    """See a tensor as a matrix [rows, columns]: fused experts one below the other, a vector as one row."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    return tensor.flatten(0, -2) if tensor.ndim == 3 else tensor.flatten(1)


def measure_likeness(ours: Tensor, theirs: Tensor) -> Likeness:
    """Compare two matrices of one shape [rows, columns], any floating dtypes, slab by slab in float32."""
    rows, columns = ours.shape
    height = min(rows, max(1, _SLAB // max(columns, 1)))
    by_row = torch.zeros(4, rows, dtype=torch.float64)
    by_column = torch.zeros(4, columns, dtype=torch.float64)
    # The same memory for each slab, small enough to stay near the processor.
    first, second, products = (torch.empty(height, columns) for _ in range(3))
    for begin in range(0, rows, height):
        lines = slice(begin, min(begin + height, rows))
        here = slice(lines.stop - begin)
        mine, theirs_here, product = first[here], second[here], products[here]
        mine.copy_(ours[lines])
        theirs_here.copy_(theirs[lines])
        for place, (one, other) in enumerate(((mine, theirs_here), (mine, mine), (theirs_here, theirs_here))):
            torch.mul(one, other, out=product)
            by_row[place, lines] = product.sum(1).double()
            by_column[place] += product.sum(0)
        by_row[3, lines] = mine.sum(1).double()
        by_column[3] += mine.sum(0)
    return Likeness(_make_lines(by_row, columns), _make_lines(by_column, rows))


def _make_lines(sums: Tensor, length: int) -> Lines:
    products, ours, theirs, own = sums
    return Lines(products, ours, theirs, own, length)


def take_cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of two tensors of one shape; 0 where one is zero."""
    return measure_likeness(as_matrix(first), as_matrix(second)).cosine


def take_distance(first: Tensor, second: Tensor) -> float:
    """Return the distance of a vector from another, relative to the other."""
    size = float(second.double().norm())
    return float((first.double() - second.double()).norm()) / size if size else float("inf")


def is_rotated(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether a matrix is another one times an orthogonal matrix, on either side.

    Then the products of its rows, or of its columns, with each other are the other's. A few rows show it.
    """
    return _has_products(ours, theirs) or _has_products(ours.T, theirs.T)


def _has_products(ours: Tensor, theirs: Tensor) -> bool:
    chosen = torch.arange(0, len(ours), max(1, len(ours) // _GRAM))[:_GRAM]
    if len(chosen) < SHORT:
        return False
    upper = torch.triu_indices(len(chosen), len(chosen), 1)
    first, second = (
        (rows @ rows.T)[upper[0], upper[1]] for rows in (ours[chosen].float(), theirs[chosen].float())
    )
    return take_cosine(first, second) > _ROTATED


def find_doubles(ours: Tensor, theirs: Tensor, lines: Lines) -> dict[int, int]:
    """Find which rows of a matrix are bit for bit another row of it that stayed in its place, and were not.

    Args:
        ours: Any floating dtype, [rows, columns].
        theirs: Likewise.
        lines: How alike their rows are.

    Returns:
        By row the other one; only rows farther from their own than rounding or training moved most.
    """
    far = lines.far & (lines.ours > 0)
    _, groups, counts = torch.unique(lines.ours, return_inverse=True, return_counts=True)
    doubles = dict[int, int]()
    for row in (far & (counts[groups] > 1)).nonzero().flatten()[:SOUGHT].tolist():
        for place in ((groups == groups[row]) & ~far).nonzero().flatten().tolist():
            if torch.equal(ours[row], ours[place]) and not torch.equal(theirs[row], theirs[place]):
                doubles[row] = place
                break
    return doubles


def is_rescaled(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether the blocks of a matrix are its own times factors of their own, as under the scales of others.

    The factor of a block is fitted over what is not zero in it. What rows and columns of blocks have in common is
    taken away, for that may be balanced elsewhere in a model. What is left is held against what the noise of the
    block would make of it, the median of all.
    """
    blocks = ours.shape[1] // _BLOCK
    if blocks < 2:
        return False
    every = max(1, len(ours) // _BLOCK_ROWS)
    wide = blocks * _BLOCK
    mine, its = (side[::every, :wide].double().reshape(-1, blocks, _BLOCK) for side in (ours, theirs))
    its = its * (mine != 0)
    squares, tiny = (its**2).sum(2), torch.finfo(torch.float64).tiny
    filled = squares > 0
    factors = torch.where(filled, (mine * its).sum(2) / squares.clamp_min(tiny), 1.0)  # [rows, blocks]
    noise = (mine - factors[..., None] * its).norm(dim=2) / squares.sqrt().clamp_min(tiny)
    left = factors - factors.mean(0) - factors.mean(1, keepdim=True) + factors.mean()
    left = torch.where(filled, left.abs(), 0.0)
    explained = float((left * _BLOCK**0.5 / noise.clamp_min(1e-6)).median())
    return explained > _UNEVEN and float(left.median()) > _FACTOR


def seek_rows(ours: Tensor, theirs: Tensor, which: Tensor) -> dict[int, tuple[int, float]]:
    """Find which rows of the parent some rows of a matrix are, if they are others than their own.

    Args:
        ours: Any floating dtype, [rows, columns].
        theirs: Likewise.
        which: Rows of `ours`, int64 [lines]; at most `SOUGHT` are looked for.

    Returns:
        By row, the parent's row and the cosine with it; only those that are clearly another's.
    """
    which = which[:SOUGHT]
    sought, all_rows = _normalize(ours[which].float()), _normalize(theirs.float())
    cosines = sought @ all_rows.T  # [sought, rows]
    own = cosines[torch.arange(len(which)), which]
    best, where = cosines.max(1)
    clear = (best > _FOUND) & (1 - best < _NEARER * (1 - own)) & (where != which)
    return {
        int(row): (int(place), float(cosine))
        for row, place, cosine in zip(which[clear], where[clear], best[clear], strict=True)
    }


def _normalize(rows: Tensor) -> Tensor:
    sizes: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / sizes.clamp_min(torch.finfo(torch.float32).tiny)


def is_level(line: Tensor) -> bool:
    """Tell whether a line holds one number in every place."""
    return bool((line == line.flatten()[0]).all())
