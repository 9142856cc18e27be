"""Keeping libraries quiet while they read a checkpoint, and leaving their settings as they were found."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

# Above every level there is.
_SILENT = 60
_CHATTY = ("bitsandbytes", "torchao", "gptqmodel", "auto_round", "optimum", "torch.utils._pytree")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what transformers and the libraries of quantized formats say and show while loading."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as own_logging

    verbosity, bars = own_logging.get_verbosity(), own_logging.is_progress_bar_enabled()
    hub_bars_off = are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    own_logging.set_verbosity(_SILENT)
    if bars:
        own_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            own_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
            if hub_bars_off:
                disable_progress_bars()


@contextmanager
def suppress_output() -> Iterator[None]:
    """Keep what is printed from the terminal: some libraries have banners and bars that cannot be turned off."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def quiet_calls() -> None:
    """Silence, for good, what bitsandbytes says at every single call of an int8 layer about the dtype."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_tells_news)


def _tells_news(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.msg
