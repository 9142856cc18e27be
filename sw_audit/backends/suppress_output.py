"""Keeping other libraries quiet while they work, and leaving their loggers as they were."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("bitsandbytes", "torchao", "hqq", "optimum", "torch.utils._pytree")


@contextmanager
def quiet_backends() -> Iterator[None]:
    """Silence what the quantizers and their layers log and warn of; they are measured, not trusted."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
