"""Ending a run early, by a time limit or a signal, so that what was measured until then is kept.

Work tells its progress between layers and batches, outside every change to the live model. There a watched
progress raises `StoppedError`, and nowhere else::

    stopper = Stopper(policy.budget)
    with stopper.heeding_signals():
        run_model(policy, model_id, checks, progress=stopper.watch(progress))

Who measures in steps catches the error around a step, and judges what the steps before it have measured, with
`error.reason` as `stopped` of the result. The watched progress raises again at every further call.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from sw_audit.duration import write_duration
from sw_audit.progress import Progress

_ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
_HEEDED = (signal.SIGINT, *_ENDING)


class SignalError(BaseException):
    """A signal asked the program to end, so that every `with` and `finally` on the way out is gone through.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def code(self) -> int:
        """How the program exits: what a shell shows for one that the signal has ended."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"ended by {_name_signal(self.number)}"


@contextmanager
def raising_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `SignalError` within the block; one that is ignored stays ignored.

    Handlers as in `Stopper.heeding_signals`, which takes over where a run can be ended after a step.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise SignalError(number)

    with _handling(_list_heard(_ENDING), leave):
        yield


class StoppedError(Exception):
    """The run is to end here.

    Attributes:
        reason: Why, as a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Stopper:
    """Knows whether a run is to end.

    Attributes:
        budget: Seconds after which it is; `None` if time does not matter.
        started: When it began, on the clock `time.monotonic`, which all processes of a machine share.
        signalled: Number of the first signal that came, else 0; processes of one run can share it.
    """

    budget: float | None = None
    started: float = field(default_factory=time.monotonic)
    signalled: ctypes.c_int = field(default_factory=ctypes.c_int)

    @property
    def reason(self) -> str | None:
        """Why the run is to end, as a clause; `None` while it is to go on."""
        if number := self.signalled.value:
            return f"the run was stopped by {_name_signal(number)}"
        if self.budget is not None and time.monotonic() - self.started >= self.budget:
            return f"the run was stopped after its budget of {write_duration(self.budget)}"
        return None

    def check(self) -> None:
        """Raise StoppedError if the run is to end."""
        if (reason := self.reason) is not None:
            raise StoppedError(reason)

    def watch(self, progress: Progress) -> Progress:
        """Return a progress that raises StoppedError when it is called and the run is to end."""

        def tell(stage: str, done: int, total: int) -> None:
            self.check()
            progress(stage, done, total)

        return tell

    @contextmanager
    def heeding_signals(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Take Ctrl-C, SIGTERM and SIGHUP, within the block, for a wish to end; Ctrl-C again interrupts at once.

        What handled them before does so again after it. A signal that is ignored stays ignored, and in a thread
        other than the main one nothing changes. `tell` is given a line when the first signal comes; it is called
        between any two instructions, so it must not use buffered output.
        """
        interrupted = False

        def heed(number: int, _: FrameType | None) -> None:
            nonlocal interrupted
            if number == signal.SIGINT and interrupted:
                raise KeyboardInterrupt
            interrupted = interrupted or number == signal.SIGINT
            if not self.signalled.value:
                self.signalled.value = number
                tell(f"{_name_signal(number)}: stopping after this step; Ctrl-C (again) ends at once")

        with _handling(_list_heard(_HEEDED), heed):
            yield


@contextmanager
def deferring_interrupts(progress: Progress) -> Iterator[Progress]:
    """Let Ctrl-C raise KeyboardInterrupt, within the block, only where progress is told; again, at once.

    There the live model is as it was. Where Ctrl-C is already taken for something else, nothing changes.
    """
    came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came > 1:
            signal.default_int_handler(number, frame)

    def tell(stage: str, done: int, total: int) -> None:
        if came:
            raise KeyboardInterrupt
        progress(stage, done, total)

    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _handling([signal.SIGINT] if plain else [], note):
        yield tell
    if came:
        raise KeyboardInterrupt


def ignoring_interrupts() -> AbstractContextManager[None]:
    """Ignore Ctrl-C for a block; processes that are started in it ignore it for good."""
    return _handling([signal.SIGINT], signal.SIG_IGN)


def _list_heard(numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if signal.getsignal(number) not in (None, signal.SIG_IGN)]


@contextmanager
def _handling(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    # Python lets no other thread do it.
    own = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if own}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def tell_stopping(line: str) -> None:
    """Write a line on standard error from within a handler of signals; a terminal that is gone is left alone.

    After SIGHUP nobody reads what the run says, and its files are to be written all the same.
    """
    try:
        os.write(2, f"\nsw-audit: {line}\n".encode())
    except OSError:
        drop_output()


def drop_output() -> None:
    """Let whatever is still written on standard output and error go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _name_signal(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
