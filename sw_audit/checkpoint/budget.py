"""Opening a model within a budget of memory: as a whole where it fits, else layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sw_audit.checkpoint.folder import CheckpointFolder, quote_source
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.memory import find_available, write_memory
from sw_audit.policy.model_policy import ModelPolicy

_WORK = 64 << 20
"""Bytes that hidden states, logits and gradients of one batch take at least."""
_WHOLE_SHARE = 0.6
"""A model is opened as a whole where its weights take at most so much of the memory: the rest is for the work."""
_AVAILABLE_SHARE = 0.8
"""So much of the memory that is free is taken where nobody sets a budget."""


@dataclass(frozen=True)
class Need:
    """How many bytes of memory a model takes at once.

    Attributes:
        whole: Its weights, with a copy of the largest layer that an arm changes.
        streamed: Of weights while each layer is there only as it runs: what is outside of the layers, the largest
            layer, and its copies.
    """

    whole: int
    streamed: int

    @property
    def least(self) -> int:
        """The smallest budget that it can be audited in."""
        return self.streamed + _WORK


def find_need(size: Size) -> Need:
    """Say how much memory a model of some size takes.

    A layer is there three times at most: itself, rounded, and in float32 by its largest matrices.
    """
    outside = max(size.memory - size.layers, 0)
    return Need(whole=size.memory + size.layer, streamed=outside + 3 * size.layer)


def fits_whole(need: Need, budget: int | None) -> bool:
    """Tell whether a model can be opened as a whole; without a budget what the machine has free counts."""
    room = _AVAILABLE_SHARE * find_available() if budget is None else budget
    return need.whole <= _WHOLE_SHARE * room


def require_fit(policy: ModelPolicy, need: Need, budget: int | None) -> None:
    """Refuse a budget that one layer at a time does not fit into.

    Raises:
        CheckpointError: If it is too small.
    """
    if budget is not None and need.least > budget:
        asked = f"{quote_source(policy)} within {write_memory(budget)} of memory"
        found = (
            f"its largest layer with its copies, its embedding and its head take {write_memory(need.streamed)}, "
            f"and the work at least {write_memory(_WORK)}"
        )
        raise CheckpointError(asked, found, f"give it more: --memory {_write_option(need.least)}")


def open_within(
    policy: ModelPolicy, budget: int | None, open_whole: Callable[[ModelPolicy], Checkpoint] = open_checkpoint
) -> Checkpoint:
    """Open a model so that it and the work on it fit into a budget of memory, in bytes.

    It is opened as a whole where it fits, else so that each decoder layer is in memory only while it is used.
    Without a budget that is decided by what the machine has free. What it computes is the same either way.

    Raises:
        CheckpointError: If it cannot be opened as it should be, or does not fit.
    """
    CheckpointFolder.require(policy)
    size = size_checkpoint(policy)
    if size is None:
        return open_whole(policy)
    need = find_need(size)
    room = int(_AVAILABLE_SHARE * find_available()) if budget is None else budget
    if fits_whole(need, budget):
        return replace(open_whole(policy), memory=None if budget is None else budget - need.whole)
    require_fit(policy, need, budget)
    try:
        return replace(open_streaming(policy), memory=max(room - need.streamed, _WORK))
    except CannotStreamError as reason:
        if budget is None:
            return open_whole(policy)
        asked = f"{quote_source(policy)} within {write_memory(budget)} of memory"
        found = f"as a whole it takes {write_memory(need.whole)}, and it cannot be read layer by layer: {reason}"
        remedy = f"give it more: --memory {_write_option(int(need.whole / _WHOLE_SHARE) + 1)}"
        raise CheckpointError(asked, found, remedy) from reason


def _write_option(count: int) -> str:
    mebibyte = 1 << 20
    return f"{-(-count // mebibyte)}MiB"
