from __future__ import annotations

import gc

import torch

from sw_audit.backends.costs import ProcessMeter, count_stored_bits, measure_peak


def test_bits_are_what_the_tensors_take_up() -> None:
    codes, scales = torch.zeros(3, 5, dtype=torch.uint8), torch.zeros(7, dtype=torch.float16)
    assert count_stored_bits([codes, scales]) == 15 * 8 + 7 * 16
    assert count_stored_bits([]) == 0


def test_a_peak_is_what_was_held_at_once() -> None:
    given = torch.zeros(1000)  # 4,000 bytes, held before

    def work() -> torch.Tensor:
        first = given + 1
        second = first * 2  # 8,000 bytes with the first
        del first
        return second.neg()  # and 8,000 again

    result, peak = measure_peak(work)
    assert peak == 8000
    assert torch.equal(result, torch.full((1000,), -2.0))


def test_views_and_writing_in_place_take_no_memory() -> None:
    given = torch.zeros(1000)
    assert measure_peak(lambda: given.view(10, 100).T.add_(1))[1] == 0
    assert float(given.sum()) == 1000


def test_memory_that_comes_and_goes_is_not_added_up() -> None:
    given = torch.zeros(1000)

    def work() -> None:
        for _ in range(10):
            (given + 1).sum()

    # One sum of four bytes beside it.
    assert 4000 <= measure_peak(work)[1] <= 4008


def test_a_process_meter_sees_memory_that_torch_knows_nothing_of() -> None:
    meter = ProcessMeter()
    gc.collect()
    with meter:
        block = bytearray(50_000_000)
        block[::4096] = b"x" * len(block[::4096])
        del block
    assert meter.seconds > 0
    # `None` where there is no /proc.
    assert meter.peak_bytes is None or 45_000_000 < meter.peak_bytes < 80_000_000
