"""What each bit of a block is: by the library that decodes it, and by numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.checkpoint.bit_fields import BLOCKS, FLOAT_BITS, name_bit, name_block_bit

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT_BITS)
def test_sign_exponent_and_mantissa_are_as_torch_has_them(name: str) -> None:
    dtype, layout = DTYPES[name], FLOAT_BITS[name]
    width = 8 * dtype.itemsize
    assert sum(layout) == width
    assert math.log2(torch.finfo(dtype).eps) == -layout.mantissa
    kinds = [name_bit(name, "number", place).kind for place in range(width)]
    assert kinds == ["mantissa"] * layout.mantissa + ["exponent"] * layout.exponent + ["sign"] * layout.sign


def flip(block: bytes, number: int) -> bytes:
    flipped = bytearray(block)
    flipped[number // 8] ^= 1 << number % 8
    return bytes(flipped)


def decode(block: bytes, dtype: str) -> np.ndarray:
    gguf = pytest.importorskip("gguf")
    data = np.frombuffer(block, np.uint8).reshape(1, -1)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[dtype])[0]


@pytest.mark.parametrize("dtype", BLOCKS)
def test_the_fields_of_a_block_fill_it(dtype: str) -> None:
    gguf = pytest.importorskip("gguf")
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    assert sum(field.size for field in BLOCKS[dtype]) == size


@pytest.mark.parametrize("dtype", BLOCKS)
@given(data=st.data())
def test_a_code_is_one_number_a_scale_multiplies_and_a_minimum_is_added(dtype: str, data: st.DataObject) -> None:
    gguf = pytest.importorskip("gguf")
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    block = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    place = 0
    for field in BLOCKS[dtype]:
        if field.dtype == "F16":  # sound numbers, so that what is decoded can be compared
            block[place : place + 2] = np.float16(data.draw(st.sampled_from([0.5, 1.0, -2.0]))).tobytes()
        if field.dtype == "F8_E8M0":
            block[place] = 127
        place += field.size
    number = data.draw(st.integers(0, 8 * size - 1))
    before, after = decode(bytes(block), dtype), decode(flip(bytes(block), number), dtype)
    meaning = name_block_bit(dtype, number)
    changed = (before != after) & ~(np.isnan(before) & np.isnan(after))
    if meaning.part == "code":
        assert changed.sum() <= 1
    elif meaning.part == "block scale":
        # Q6_K and Q2_K have a scale for 16 numbers, Q4_K and others for 32; of some the minimum beside it.
        assert changed.sum() <= 32
    elif meaning.part == "minimum" and len(BLOCKS[dtype]) == 3:
        assert changed.all()
        assert np.unique(np.float64(after) - before).size == 1 or not np.isfinite(after).all()
    elif meaning.kind == "sign":
        assert meaning.part in ("scale", "minimum")
        if len(BLOCKS[dtype]) == 2:
            assert (after == -before).all()


def test_the_sign_of_a_q8_0_scale_turns_its_block_around() -> None:
    block = np.float16(0.5).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    assert decode(block, "Q8_0").tolist() == [0.5 * code for code in range(-16, 16)]
    assert name_block_bit("Q8_0", 15) == ("scale", "sign", 15)
    assert decode(flip(block, 15), "Q8_0").tolist() == [-0.5 * code for code in range(-16, 16)]
    # 0.5 is 2^(14 - 15): with bit 4 of the exponent it is 2^(30 - 15).
    assert name_block_bit("Q8_0", 14) == ("scale", "exponent", 14)
    assert decode(flip(block, 14), "Q8_0")[17] == 2.0**15
    # The code of the last number is 15; without its lowest bit, 14.
    assert name_block_bit("Q8_0", 8 * 33) == ("code", "integer", None)
    assert decode(flip(block, 8 * 33), "Q8_0")[31] == 7.0


def test_a_q4_1_minimum_is_added_to_every_number_of_its_block() -> None:
    # Scale 2, minimum 1; all codes are 3.
    block = np.float16(2.0).tobytes() + np.float16(1.0).tobytes() + bytes([0x33] * 16)
    assert decode(block, "Q4_1").tolist() == [7.0] * 32
    assert name_block_bit("Q4_1", 31) == ("minimum", "sign", 15)
    assert decode(flip(block, 31), "Q4_1").tolist() == [5.0] * 32
    # The upper half of a byte is the number 16 further on.
    assert decode(flip(block, 32 + 7), "Q4_1")[16] == 2.0 * (3 + 8) + 1.0


def test_a_block_that_is_not_known_is_told_so() -> None:
    assert name_block_bit("TQ1_0", 5) == ("block", "integer", None)
