"""Keeping libraries quiet while they read a checkpoint, and leaving their settings as they were found."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as transformers_logging

from sw_audit.checkpoint.formats.format import list_formats

# Above every level there is.
_SILENT = 60


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what transformers and the libraries of quantized formats say and show while loading."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_bars_off = are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for known in list_formats() for name in known.loggers]
    levels = [logger.level for logger in loggers]
    transformers_logging.set_verbosity(_SILENT)
    if bars:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
            if hub_bars_off:
                disable_progress_bars()


@contextmanager
def suppress_output(*, unless: bool = False) -> Iterator[None]:
    """Discard what is printed, unless told not to: some libraries have banners and bars that stay on."""
    if unless:
        yield
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield
