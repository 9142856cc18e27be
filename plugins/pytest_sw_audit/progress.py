"""Where the work stands, as a bar on the terminal; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from tqdm import tqdm

from sw_audit.progress import Progress, ignore_progress


@contextmanager
def report_progress(config: pytest.Config, model: str) -> Iterator[Progress]:
    """Give what is called while a model is measured: a bar, if standard error is a terminal that is looked at.

    Nothing is shown under `-q`, on workers of pytest-xdist, and where standard error is no terminal.
    """
    quiet = config.getoption("verbose", 0) < 0 or hasattr(config, "workerinput")
    with _show(config):
        shown = not quiet and sys.stderr.isatty()
    if not shown:
        yield ignore_progress
        return
    bar = ProgressBar(config, model)
    try:
        yield bar
    finally:
        bar.close()


class ProgressBar:
    """A bar on standard error that pytest's capturing does not swallow."""

    def __init__(self, config: pytest.Config, model: str) -> None:
        self._config = config
        self._model = model
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        with _show(config):
            if reporter is not None:
                reporter.ensure_newline()
            self._bar: Any = tqdm(
                total=0,
                desc=model,
                leave=False,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}",
            )

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show a stage and how far it is."""
        with _show(self._config):
            self._bar.total, self._bar.n = max(total, 1), done
            self._bar.set_description_str(f"{self._model}: {stage}", refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the terminal."""
        with _show(self._config):
            self._bar.close()


def _show(config: pytest.Config) -> AbstractContextManager[None]:
    """Return a context in which what is written reaches the terminal."""
    manager = config.pluginmanager.get_plugin("capturemanager")
    return nullcontext() if manager is None else manager.global_and_fixture_disabled()
