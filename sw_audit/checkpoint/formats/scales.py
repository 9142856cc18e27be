"""The codes around one scalar: what they are multiplied by, and which numbers they can stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Levels = NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """The codes around one scalar: `factor` multiplies a code, `levels` are what codes stand for before that.

    Levels are float32, ascending; `None` stands for whole numbers.
    """

    factor: float
    levels: Levels | None = None

    def step(self, value: float) -> float | None:
        """Return the distance from the level that a value is at to its neighbour, the nearer one to zero."""
        if self.levels is None:
            return abs(self.factor)
        if not self.factor:
            return None
        level = int(np.abs(self.levels - np.float32(value / self.factor)).argmin())
        inward = level + (1 if self.levels[level] < 0 else -1)
        if not 0 <= inward < len(self.levels):
            return None
        return abs(float(self.levels[level] - self.levels[inward])) * abs(self.factor)


def list_float_levels(exponent: int, mantissa: int, largest: float) -> Levels:
    """List what the codes of a small float stand for, by the bits of exponent and mantissa.

    The bias is half the exponent's range, rounded down; codes beyond `largest` are infinite or no numbers.
    """
    bias = 2 ** (exponent - 1) - 1
    normal = [
        (1 + part / 2**mantissa) * 2.0 ** (power - bias)
        for power in range(1, 2**exponent)
        for part in range(2**mantissa)
    ]
    small = [part / 2**mantissa * 2.0 ** (1 - bias) for part in range(2**mantissa)]
    positive = [level for level in (*small, *normal) if level <= largest]
    return np.array([*(-level for level in reversed(positive[1:])), *positive], dtype=np.float32)


E2M1 = list_float_levels(2, 1, 6.0)
E4M3 = list_float_levels(4, 3, 448.0)
E5M2 = list_float_levels(5, 2, 57344.0)


def pick_scale(scales: Tensor, row: int, column: int, shape: tuple[int, int]) -> float:
    """Pick one scalar's scale from those of a matrix, each of which stands for a block.

    Scales are one for all, one per row, or [bands, parts]; the matrix's shape is (out, in).
    """
    if scales.numel() == 1:
        return float(scales.float().flatten()[0])
    grid = scales.float().reshape(scales.shape[0], -1)  # [bands, parts]
    # The last block of each row and column may be smaller than the others.
    height, width = (-(-size // count) for size, count in zip(shape, grid.shape, strict=True))
    return float(grid[row // height, column // width])


def multiply(codes: Tensor, scales: Tensor) -> Tensor | None:
    """Multiply codes [out, in] by a scale per tensor, row, group or block, float32; `None` if they do not fit.

    A matrix that is no multiple of its blocks ends in blocks that are cut off. Scales that are bytes are exponents
    of two.
    """
    if not scales.is_floating_point():
        if scales.element_size() != 1:
            return None
        scales = (scales.float() - 127).exp2()
    if scales.numel() == 1:
        return codes.float() * scales.float().flatten()
    if scales.ndim == 1:
        scales = scales[:, None]
    if codes.ndim != 2 or scales.ndim != 2 or any(map(int.__gt__, scales.shape, codes.shape)):
        return None
    factors = scales.float()
    for axis, size in enumerate(codes.shape):
        factors = factors.repeat_interleave(-(-size // scales.shape[axis]), axis).narrow(axis, 0, size)
    return codes.float() * factors
