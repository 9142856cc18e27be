from __future__ import annotations

import subprocess
import sys

import pytest

from sw_audit import memory
from sw_audit.memory import find_available, measure_resident, measuring_peak, parse_memory, write_memory


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (4096, 4096), ("4096", 4096), ("8GiB", 8 * 1024**3), ("400MiB", 400 * 1024**2), ("16GB", 16 * 1000**3),
        ("1.5 GiB", 3 * 1024**3 // 2), (" 2 kB ", 2000), ("2KB", 2000), ("3M", 3_000_000), ("1TiB", 1024**4),
        ("10B", 10),
    ],
)  # fmt: skip
def test_an_amount_of_memory_is_read_in_bytes(written: object, count: int) -> None:
    assert parse_memory(written) == count


@pytest.mark.parametrize("written", ["", "much", "GiB", "-1GiB", "8 gib", "0", 0, -1, True, None, 1.5, "0.1", [8]])
def test_anything_else_is_told_with_the_forms(written: object) -> None:
    with pytest.raises(ValueError, match="is no amount of memory such as 8GiB, 400MiB or 16GB") as caught:
        parse_memory(written)
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize(
    ("count", "words"),
    [(512, "512 bytes"), (1024, "1 KiB"), (400 << 20, "400 MiB"), (5 << 29, "2.5 GiB"), (3 << 52, "1.23e+04 TiB")],
)
def test_it_is_written_with_its_unit(count: int, words: str) -> None:
    assert write_memory(count) == words


def test_the_peak_is_what_was_there_at_once_and_begins_anew_each_time() -> None:
    with measuring_peak() as measured:
        held = bytearray(200 << 20)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
        del held
    with measuring_peak() as after:
        pass
    assert measured.added is not None
    assert measured.added >= 190 << 20  # counted in steps of some pages
    assert after.added is not None
    assert after.added < 100 << 20


def test_where_the_system_does_not_count_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR", memory.Path("/nowhere/clear_refs"))
    with measuring_peak() as measured:
        pass
    assert measured.peak is None
    assert measured.added is None


def test_a_process_takes_less_than_there_is() -> None:
    assert 0 < measure_resident() < find_available() + measure_resident()


HELD = """
import torch
from sw_audit.memory import measure_resident, return_freed_blocks, return_large_blocks
{before}
seen = torch.ones(16 << 18)
del seen  # blocks of this size come from the heap from now on
before = measure_resident()
held = [torch.ones(16 << 18) for _ in range(4)]
held = held[-1:]  # which lies above what is freed
{after}
print((measure_resident() - before) >> 20)
"""


@pytest.mark.parametrize(
    ("before", "after", "goes_back"),
    [("", "", False), ("return_large_blocks()", "", True), ("", "return_freed_blocks()", True)],
    ids=["by itself", "large blocks", "freed blocks"],
)
def test_freed_memory_goes_back_to_the_system(before: str, after: str, goes_back: bool) -> None:
    """In a process of its own, for the C library remembers what it was told."""
    program = HELD.format(before=before, after=after)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(run.stdout) < 32) is goes_back
