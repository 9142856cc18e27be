"""Says in one line that hypothesis is missing; nothing else here needs it."""

from __future__ import annotations

from importlib.util import find_spec

from sw_audit.errors import InputError


def require_hypothesis(asked: str) -> None:
    """Complain if hypothesis is not installed.

    Args:
        asked: What needs it.

    Raises:
        InputError: If it is not there.
    """
    if find_spec("hypothesis") is None:
        raise InputError(asked, "hypothesis is not installed", "install it: pip install hypothesis")
