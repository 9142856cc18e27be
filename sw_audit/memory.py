"""Amounts of memory: as people write them, as this machine has them, and as this process takes them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_FORM = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<prefix>[kKMGT]?)(?P<binary>i?)[bB]?")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_MMAP_THRESHOLD = -3  # as malloc.h has it
_LARGE = 1 << 20


def parse_memory(written: object) -> int:
    """Return an amount of memory in bytes; `8GB` are 8 x 1000^3 and `8GiB` 8 x 1024^3, a number is in bytes.

    Raises:
        ValueError: If it is not in one of the forms, or nothing.
    """
    amount = 0.0
    if isinstance(written, int) and not isinstance(written, bool):
        amount = written
    elif isinstance(written, str) and (match := _FORM.fullmatch(written.strip())):
        base = 1024 if match["binary"] else 1000
        amount = float(match["amount"]) * base ** _POWERS[match["prefix"]]
    if amount < 1:
        raise ValueError(f"{written!r} is no amount of memory such as 8GiB, 400MiB or 16GB")
    return int(amount)


def write_memory(count: int) -> str:
    """Write a number of bytes, such as `2.5 GiB`; a kibibyte is 1024 bytes."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_PREFIXES) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.3g} {_PREFIXES[unit]}B" if unit else f"{count} bytes"


def find_available() -> int:
    """Return the bytes of memory that this machine can give without swapping."""
    return int(psutil.virtual_memory().available)


def measure_resident() -> int:
    """Return the bytes of memory that this process takes now, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def return_large_blocks() -> None:
    """Let the C library give back blocks of a mebibyte and more to the system as soon as they are freed.

    By itself it keeps ever larger ones for the next who asks: of a process that works on layers one by one it
    would hold several layers. Of other C libraries than glibc nothing is known.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def return_freed_blocks() -> None:
    """Let the C library give back what is free of smaller blocks, too."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class PeakMemory:
    """The peak of resident memory of this process inside of a `with`, as the operating system counts it.

    Attributes:
        before: Bytes before.
        peak: Bytes at most, mapped files included; `None` where the system does not say.
    """

    before: int
    peak: int | None = None

    @property
    def added(self) -> int | None:
        """Bytes at most beyond those before."""
        return None if self.peak is None else max(self.peak - self.before, 0)


@contextmanager
def measuring_peak() -> Iterator[PeakMemory]:
    """Measure the peak of resident memory; one such measurement at a time.

    Linux counts it, and can be told to begin anew; of other systems nothing is known.
    """
    measured = PeakMemory(measure_resident())
    begun = _reset_peak()
    try:
        yield measured
    finally:
        if begun:
            measured.peak = _read_peak()


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return _STATUS.exists()


def _read_peak() -> int | None:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return None
