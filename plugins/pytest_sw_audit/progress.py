"""Where the work stands: a bar on the terminal, else lines of pytest's reporter; nothing under `-q`."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from tqdm import tqdm

from pytest_sw_audit.state import is_worker
from sw_audit.printable import printable
from sw_audit.progress import Progress, Standing, ignore_progress
from sw_audit.runner.fleet import Fleet

_EVERY = 30.0
"""Seconds between two lines within a stage."""


@contextmanager
def report_progress(config: pytest.Config, model: str) -> Iterator[Progress]:
    """Give what is called while a model is measured.

    A bar, where standard error is a terminal; else a line every 30 seconds, and under `-v` at the beginning of
    each stage. Workers of pytest-xdist, whose reporters nobody hears, write such lines on standard error.
    """
    verbosity = config.getoption("verbose", 0)
    if verbosity < 0:
        yield ignore_progress
        return
    with _show(config):
        bar = sys.stderr.isatty() and not is_worker(config)
    if not bar:
        yield ProgressLines(config, model, every_stage=verbosity > 0)
        return
    shown = ProgressBar(config, model)
    try:
        yield shown
    finally:
        shown.close()


def count_models(config: pytest.Config, sizes: Mapping[Hashable, int | None]) -> Fleet:
    """Return what is told of each model that begins and is done; see `Fleet`.

    Of several models pytest's reporter writes where the run stands every 30 seconds, under `-v` whenever one is
    done; nothing under `-q`. Workers of pytest-xdist write nothing, for each knows but its own models.
    """
    fleet, verbosity = Fleet(sizes), config.getoption("verbose", 0)
    if verbosity < 0 or len(sizes) < 2 or is_worker(config):
        return fleet
    written = time.monotonic()

    def show() -> None:
        nonlocal written
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and (verbosity > 0 or time.monotonic() - written >= _EVERY):
            written = time.monotonic()
            with _show(config):
                reporter.ensure_newline()
                reporter.write_line(f"sw-audit: {fleet.tell()}")

    fleet.show = show
    return fleet


class ProgressLines:
    """Lines that pytest's capturing does not swallow."""

    def __init__(self, config: pytest.Config, model: str, *, every_stage: bool) -> None:
        self._config = config
        self._model = model
        self._every_stage = every_stage
        self._standing = Standing()
        self._began = self._written = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write a line if it is time for one."""
        begins = self._standing.move(stage, done, total)
        if begins and self._every_stage:
            self._write(stage)
        elif time.monotonic() - self._written >= _EVERY:
            self._write(self._standing.tell())

    def _write(self, line: str) -> None:
        self._written = time.monotonic()
        text = f"[{tqdm.format_interval(self._written - self._began)}] {printable(f'{self._model}: {line}')}"
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        with _show(self._config):
            if reporter is None or is_worker(self._config):
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            else:
                reporter.write_line(text)


class ProgressBar:
    """A bar on standard error that pytest's capturing does not swallow."""

    def __init__(self, config: pytest.Config, model: str) -> None:
        self._config = config
        self._model = model
        self._standing = Standing()
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        with _show(config):
            if reporter is not None:
                reporter.ensure_newline()
            self._bar: Any = tqdm(
                total=0,
                desc=printable(model),
                leave=False,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            )

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show a stage, how far it is, and how long it still takes."""
        self._standing.move(stage, done, total)
        with _show(self._config):
            self._bar.total, self._bar.n = max(total, 1), done
            self._bar.set_description_str(printable(f"{self._model}: {stage}"), refresh=False)
            self._bar.set_postfix_str(self._standing.tell_left(), refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the terminal."""
        with _show(self._config):
            self._bar.close()


def _show(config: pytest.Config) -> AbstractContextManager[None]:
    """Return a context in which what is written reaches the terminal."""
    manager = config.pluginmanager.get_plugin("capturemanager")
    return nullcontext() if manager is None else manager.global_and_fixture_disabled()
