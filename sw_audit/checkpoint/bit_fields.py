"""What each bit of a stored piece is: of a floating number, and of a block of llama.cpp."""

from __future__ import annotations

from typing import NamedTuple

from sw_audit.record.bits import BitKind, BitPart


class Float(NamedTuple):
    """Bits of exponent and mantissa; below the sign, unless there is none."""

    exponent: int
    mantissa: int
    sign: int = 1


FLOAT_BITS = {
    "F64": Float(11, 52),
    "F32": Float(8, 23),
    "F16": Float(5, 10),
    "BF16": Float(8, 7),
    "F8_E4M3": Float(4, 3),
    "F8_E5M2": Float(5, 2),
    "F8_E8M0": Float(8, 0, 0),
}
"""The floating dtypes, as safetensors names them."""


class Field(NamedTuple):
    """Neighbouring bytes of a block: how many, what they are, and the dtype of the number if they are one."""

    size: int
    part: BitPart
    dtype: str | None = None


_SCALE, _MINIMUM = Field(2, "scale", "F16"), Field(2, "minimum", "F16")
# As `ggml-common.h` of llama.cpp lays them out. Blocks of scales hold those of parts of the block.
BLOCKS: dict[str, tuple[Field, ...]] = {
    "Q4_0": (_SCALE, Field(16, "code")),
    "Q4_1": (_SCALE, _MINIMUM, Field(16, "code")),
    "Q5_0": (_SCALE, Field(20, "code")),
    "Q5_1": (_SCALE, _MINIMUM, Field(20, "code")),
    "Q8_0": (_SCALE, Field(32, "code")),
    "Q2_K": (Field(16, "block scale"), Field(64, "code"), _SCALE, _MINIMUM),
    "Q3_K": (Field(96, "code"), Field(12, "block scale"), _SCALE),
    "Q4_K": (_SCALE, _MINIMUM, Field(12, "block scale"), Field(128, "code")),
    "Q5_K": (_SCALE, _MINIMUM, Field(12, "block scale"), Field(160, "code")),
    "Q6_K": (Field(192, "code"), Field(16, "block scale"), _SCALE),
    "IQ4_NL": (_SCALE, Field(16, "code")),
    "IQ4_XS": (_SCALE, Field(6, "block scale"), Field(128, "code")),
    "MXFP4": (Field(1, "scale", "F8_E8M0"), Field(16, "code")),
}
"""The blocks of llama.cpp whose parts are known, by type."""


class BitMeaning(NamedTuple):
    """What a bit is.

    Attributes:
        part: Of what it is a bit.
        kind: Which kind of bit; `integer` of what is no floating number.
        place: Which one in that number, counted from the lowest; `None` where fields are packed otherwise.
    """

    part: BitPart
    kind: BitKind
    place: int | None


def name_bit(dtype: str, part: BitPart, number: int) -> BitMeaning:
    """Say what a bit of an entry is, counted from the lowest bit of its first byte, as all formats store."""
    layout = FLOAT_BITS.get(dtype)
    if layout is None:
        return BitMeaning(part, "integer", number)
    kind: BitKind = "sign"
    if number < layout.mantissa:
        kind = "mantissa"
    elif number < layout.mantissa + layout.exponent:
        kind = "exponent"
    return BitMeaning(part, kind, number)


def name_block_bit(dtype: str, number: int) -> BitMeaning:
    """Say what a bit of a tensor of a GGUF file is, counted from the lowest bit of its block's first byte."""
    if dtype in FLOAT_BITS:
        return name_bit(dtype, "number", number)
    for size, part, stored in BLOCKS.get(dtype, ()):
        if number < 8 * size:
            return BitMeaning(part, "integer", None) if stored is None else name_bit(stored, part, number)
        number -= 8 * size
    return BitMeaning("block", "integer", None)
