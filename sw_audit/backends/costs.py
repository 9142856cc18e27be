"""What quantizing costs: stored bits, seconds, and peak memory."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")


def count_stored_bits(tensors: Iterable[Tensor]) -> int:
    """Count the bits that tensors take up, however they are packed.

    A tensor that wraps others (torchao, quanto) takes up what these do; its own size is that of the unpacked one.
    """
    parts = (part for tensor in tensors for part in _list_parts(tensor))
    return sum(8 * part.numel() * part.element_size() for part in parts)


def measure_peak(work: Callable[[], Result]) -> tuple[Result, int]:
    """Do some work and measure the most bytes that its tensors held at once, its result included.

    What torch allocates is counted after each operation, on any device. What an operation allocates and frees
    within itself is not seen. Tensors that exist before do not count.
    """
    with _Memory() as memory:
        result = work()
    return result, memory.peak


class ProcessMeter:
    """Measures how long a stretch of the process takes, and its peak memory beyond what was held before.

    Attributes:
        seconds: Time in it.
        peak_bytes: Most resident memory beyond that at its beginning; `None` where the system does not tell.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes: int | None = None
        self._started = 0.0
        self._held: int | None = None

    def __enter__(self) -> None:
        self._held = _reset_peak()
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started
        peak = _read_status("VmHWM")
        if peak is not None and self._held is not None:
            self.peak_bytes = max(self.peak_bytes or 0, peak - self._held)


def _reset_peak() -> int | None:
    """Let the system forget the process's peak, and return what is resident now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _read_status("VmRSS")


def _read_status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    entry = next((line.split() for line in lines if line.startswith(f"{name}:")), None)
    return None if entry is None else 1024 * int(entry[1])  # in KiB


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its base untyped
    """Counts the storages that come and go while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        for tensor in _list_plain((args, kwargs)):
            self._register(tensor, counts=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _list_plain(result):
            self._register(tensor, counts=True)
        return result

    def _register(self, tensor: Tensor, *, counts: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if counts else 0
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def _list_plain(values: Any) -> list[Tensor]:
    parts = (part for leaf in tree_leaves(values) if isinstance(leaf, Tensor) for part in _list_parts(leaf))
    return [part for part in parts if part.device.type != "meta"]


def _list_parts(tensor: Tensor) -> Iterator[Tensor]:
    """List the tensors that have memory of their own: those that a packed one wraps, or itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from _list_parts(getattr(tensor, name))
