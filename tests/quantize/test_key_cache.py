from __future__ import annotations

import pytest
import torch

from sw_audit.quantize.key_cache import can_cache, round_cached, turn_hadamard
from sw_audit.record.keys import CACHE_KINDS, CacheKind


def test_blocks_of_four_bits_by_hand() -> None:
    keys = torch.zeros(32)
    keys[:6] = torch.tensor([-40.0, 2.4, 2.6, -2.4, -2.6, 39.0])
    # The number of the largest magnitude is level -8, so the step is 5: levels go from -40 to 35.
    rounded = round_cached(keys, "q4_0")
    assert rounded[:6].tolist() == [-40.0, 0.0, 5.0, 0.0, -5.0, 35.0]
    assert not bool(rounded[6:].any())


def test_a_large_number_of_either_sign_takes_the_end_that_is_further_out() -> None:
    keys = torch.zeros(32)
    keys[:2] = torch.tensor([40.0, -39.0])
    assert round_cached(keys, "q4_0")[:2].tolist() == [40.0, -35.0]


def test_blocks_of_eight_bits_by_hand() -> None:
    keys = torch.zeros(64)
    keys[:4] = torch.tensor([254.0, 0.9, 1.1, -3.1])
    keys[32:34] = torch.tensor([127.0, 0.6])
    rounded = round_cached(keys, "q8_0")
    assert rounded[:4].tolist() == [254.0, 0.0, 2.0, -4.0]
    assert rounded[32:34].tolist() == [127.0, 1.0]


def test_eight_bit_floats_round_each_number_by_itself_and_end_at_448() -> None:
    keys = torch.tensor([1000.0, -1000.0, 17.0, 0.3])
    assert round_cached(keys, "fp8").tolist() == [448.0, -448.0, 16.0, 0.3125]


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_blocks_are_those_of_the_gguf_package_bit_for_bit(kind: CacheKind, scale: float) -> None:
    quants = pytest.importorskip("gguf.quants")
    types = pytest.importorskip("gguf").GGMLQuantizationType
    keys = torch.randn(7, 3, 64, generator=torch.Generator().manual_seed(3)) * scale
    keys[0, 0, :32] = 0
    keys[1, 1, 5] = 40 * scale
    written = quants.quantize(keys.numpy(), types[kind.upper()])
    read = torch.from_numpy(quants.dequantize(written, types[kind.upper()]))
    assert torch.equal(round_cached(keys, kind), read.view_as(keys))


def test_turning_by_hadamard_spreads_one_channel_over_all_and_keeps_lengths() -> None:
    keys = torch.zeros(2, 128)
    keys[0, 3], keys[1, 70] = 40.0, 8.0
    turned = turn_hadamard(keys)
    # 40 / 8 and 8 / 8 in the 64 around them, of either sign, and nothing in the others.
    assert turned[0].abs().tolist() == [5.0] * 64 + [0.0] * 64
    assert turned[1].abs().tolist() == [0.0] * 64 + [1.0] * 64
    torch.testing.assert_close(turn_hadamard(turned), keys)


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_zeros_stay_zeros_and_nothing_is_written_into(kind: CacheKind) -> None:
    keys = torch.zeros(2, 32)
    assert not bool(round_cached(keys, kind).any())
    drawn = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    before = drawn.clone()
    round_cached(drawn, kind)
    assert torch.equal(drawn, before)


def test_blocks_want_whole_ones() -> None:
    assert not can_cache("q4_0", 80)
    assert can_cache("q4_0", 96)
    assert can_cache("fp8", 80)
