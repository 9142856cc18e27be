"""Where the work stands, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from sw_audit.printable import printable
from sw_audit.progress import Progress, Standing, ignore_progress
from sw_audit.runner.fleet import Fleet

_EVERY = 30.0
"""Seconds between two lines within a stage."""
_TICK = 1.0
_FORM = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
_FORM_OF_MODELS = "{desc} |{bar}| {elapsed}"


@contextmanager
def show_progress(name: str = "", *, quiet: bool = False, plain: bool = False) -> Iterator[Progress]:
    """Give what is called while work is done.

    On a terminal it shows a bar, which goes away at the end. Elsewhere it writes a line when a stage begins, and
    every 30 seconds within one, whether or not it is called.

    Args:
        name: What stands in front, such as a model's id.
        quiet: Whether nothing is shown.
        plain: Whether lines are written on a terminal too.
    """
    if quiet:
        yield ignore_progress
        return
    shown = _Lines(name) if plain or not sys.stderr.isatty() else _Bar(name)
    try:
        with _ticking(shown.tick):
            yield shown
    finally:
        shown.close()


@contextmanager
def show_models(
    sizes: Mapping[Hashable, int | None], *, quiet: bool = False, plain: bool = False
) -> Iterator[Fleet]:
    """Give what is told of each model that begins and is done; see `Fleet`.

    Of several models a terminal shows a bar, which goes away at the end, and elsewhere a line is written when one
    is done. Of a single model, and where `quiet` says so, nothing is shown; `plain` is as in `show_progress`.
    """
    fleet = Fleet(sizes)
    if quiet or len(sizes) < 2:
        yield fleet
    elif plain or not sys.stderr.isatty():
        lines = _Lines("")
        fleet.show = lambda: lines.write(fleet.tell())
        yield fleet
    else:
        bar = tqdm(
            total=len(sizes),
            desc=printable(fleet.tell()),
            leave=False,
            file=sys.stderr,
            bar_format=_FORM_OF_MODELS,
        )

        def show() -> None:
            bar.n = fleet.done
            bar.set_description_str(printable(fleet.tell()))

        fleet.show = show
        try:
            with _ticking(show):
                yield fleet
        finally:
            bar.close()


class _Lines:
    """A line when a stage begins, and now and then within one."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}: " if name else ""
        self._standing = Standing()
        self._began = self._written = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._standing.move(stage, done, total):
            self.write(stage)

    def tick(self) -> None:
        now = self._standing
        if now.stage and time.monotonic() - self._written >= _EVERY:
            self.write(now.tell())

    def close(self) -> None:
        """Do nothing: lines stay where they are."""

    def write(self, line: str) -> None:
        self._written = time.monotonic()
        elapsed = tqdm.format_interval(self._written - self._began)
        # One call, for other processes write here too.
        sys.stderr.write(f"[{elapsed}] {printable(self._name + line)}\n")
        sys.stderr.flush()


class _Bar:
    """A bar with the stage and the time left."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}: " if name else ""
        self._standing = Standing()
        self._bar: Any = tqdm(total=1, desc=printable(name), leave=False, file=sys.stderr, bar_format=_FORM)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._standing.move(stage, done, total)
        self.tick()

    def tick(self) -> None:
        now = self._standing
        if not now.stage:
            return
        self._bar.total, self._bar.n = max(now.total, 1), now.done
        self._bar.set_description_str(printable(self._name + now.stage), refresh=False)
        self._bar.set_postfix_str(now.tell_left(), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


@contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Call something once a second, also while the work does not."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_TICK):
            tick()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
