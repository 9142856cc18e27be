"""Whole numbers of a few bits, packed one after the other into words of 32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Unpack numbers that follow one another along the first axis, least significant bit first.

    Numbers of 3, 5, 6 or 7 bits may begin in one word and end in the next, as GPTQ packs them.

    Args:
        words: Int32 [words, columns].
        bits: Of one number, 1 to 8.

    Returns:
        Uint8 [words * 32 // bits, columns].
    """
    rows, columns = words.shape
    # So many numbers fill whole words.
    together = 32 // math.gcd(32, bits)
    held = together * bits // 32
    numbers = words.new_empty((rows // held * together, columns)).byte()
    for place in range(together):
        word, begin = divmod(place * bits, 32)
        within = min(bits, 32 - begin)
        # A shift to the right keeps the sign, which the mask takes away.
        part = (words[word::held] >> begin) & ((1 << within) - 1)
        if within < bits:
            part |= (words[word + 1 :: held] & ((1 << (bits - within)) - 1)) << within
        numbers[place::together] = part
    return numbers


def add_one(words: Tensor, bits: int) -> Tensor:
    """Add one to each number of 2, 4 or 8 bits in int32 words; word by word, so that what overflows is carried."""
    one = sum(1 << begin for begin in range(0, 32, bits))
    return words + (one - (1 << 32) if one >> 31 else one)
