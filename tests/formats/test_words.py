"""Whole numbers in words of 32 bits, packed again bit by bit."""

from __future__ import annotations

import pytest
import torch

from sw_audit.checkpoint.formats.words import add_one, unpack_words


def pack(numbers: list[int], bits: int) -> list[int]:
    """Pack numbers one after the other, least significant bit first, into words with a sign."""
    stream = sum(number << (place * bits) for place, number in enumerate(numbers))
    words = [(stream >> begin) & 0xFFFFFFFF for begin in range(0, len(numbers) * bits, 32)]
    return [word - (1 << 32) if word >> 31 else word for word in words]


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_come_out_as_they_went_in_also_across_words(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    numbers = torch.randint(2**bits, (64, 3), generator=generator)
    words = torch.tensor([pack(column.tolist(), bits) for column in numbers.T], dtype=torch.int32).T
    assert words.shape == (2 * bits, 3)
    assert unpack_words(words, bits).tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_more_in_each_number_is_carried_within_the_word_only(bits: int) -> None:
    most = 2**bits - 1
    words = torch.tensor([pack([most - 1] * (32 // bits), bits), [-1]], dtype=torch.int32)
    above = unpack_words(add_one(words, bits).T, bits).T.tolist()
    assert above[0] == [most] * (32 // bits)
    # Where all are full, the lowest wraps to nothing, and what is carried makes one of each other's nothing.
    assert above[1] == [0, *[1] * (32 // bits - 1)]
