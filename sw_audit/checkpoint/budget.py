"""Opening a model within a budget of memory: as a whole where it fits, else layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sw_audit.checkpoint.folder import CheckpointFolder, quote_source
from sw_audit.checkpoint.formats.format import CannotStreamError
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.memory import find_available, write_memory
from sw_audit.policy.model_policy import ModelPolicy

_WORK = 64 << 20
"""Bytes that hidden states, logits and gradients of one batch take at least."""
_PROGRAM_GROWS = 96 << 20
"""Bytes that the program itself takes beyond what it takes at first: code that is loaded when it is needed,
tokens, and what the C library keeps of what was freed."""
_WHOLE_SHARE = 0.6
"""A model is opened as a whole where its weights take at most so much of the memory: the rest is for the work."""
_AVAILABLE_SHARE = 0.8
"""So much of the memory that is free is taken where nobody sets a budget."""


@dataclass(frozen=True)
class Need:
    """How many bytes of memory a model takes at once.

    Attributes:
        whole: Its weights, with a copy of the largest layer that an arm changes.
        streamed: Of weights while each layer is there only as it is used: what is outside of the layers, the
            largest layer, and its copies.
        beside: Of weights while it runs layer by layer beside another and is left as it is.
    """

    whole: int
    streamed: int
    beside: int

    @property
    def least(self) -> int:
        """The smallest budget that it can be audited in."""
        return self.streamed + _WORK + _PROGRAM_GROWS


def find_need(size: Size) -> Need:
    """Say how much memory a model of some size takes.

    A layer is there three times at most: itself, rounded, and in float32 by its largest matrices.
    """
    outside = max(size.memory - size.layers, 0)
    return Need(whole=size.memory + size.layer, streamed=outside + 3 * size.layer, beside=outside + size.layer)


def fits_whole(need: Need, room: int) -> bool:
    """Tell whether a model can be opened as a whole in so many bytes, and leaves enough for the work on it."""
    return need.whole <= _WHOLE_SHARE * room


@dataclass(frozen=True)
class Opening:
    """How a model is opened within a budget.

    Attributes:
        streamed: Whether each decoder layer is in memory only while it is used.
        weights: Bytes of its weights that are in memory at once.
        memory: Bytes that the work on it may take; `None` if there is no limit.
    """

    streamed: bool
    weights: int
    memory: int | None


def choose_opening(need: Need, budget: int | None, taken: int = 0, *, streamed: bool = False) -> Opening:
    """Choose how to open a model; without a budget by what the machine has free. See `open_within`.

    Args:
        need: What the model takes.
        budget: What models and the work on them may take, in bytes.
        taken: So many bytes of it are taken by others.
        streamed: Whether it is to be read layer by layer wherever that can be.
    """
    room = int(_AVAILABLE_SHARE * find_available()) if budget is None else budget
    fits = fits_whole(need, room - taken)
    if fits and not streamed:
        left = None if budget is None else room - taken - need.whole
        return Opening(streamed=False, weights=need.whole, memory=left)
    limit = None if fits and budget is None else max(room - taken - need.streamed - _PROGRAM_GROWS, _WORK)
    return Opening(streamed=True, weights=need.streamed, memory=limit)


def require_fit(policy: ModelPolicy, need: Need, budget: int, taken: int = 0) -> None:
    """Refuse a budget that one layer at a time does not fit into; so many bytes of it are taken by others.

    Raises:
        CheckpointError: If it is too small.
    """
    if need.least + taken > budget:
        asked = f"{quote_source(policy)} within {write_memory(budget)} of memory"
        beside = f", and its parent beside it {write_memory(taken)}" if taken else ""
        found = (
            f"its largest layer with its copies, its embedding and its head take {write_memory(need.streamed)}, "
            f"the work at least {write_memory(need.least - need.streamed)}{beside}"
        )
        raise CheckpointError(asked, found, f"give it more: --memory {_write_option(need.least + taken)}")


def refuse_small_budget(policy: ModelPolicy, budget: int | None, beside: ModelPolicy | None = None) -> None:
    """Refuse a budget that a model cannot be audited in, beside another one where it is measured beside one.

    Nothing is read but headers; what is not here yet is not fetched.

    Raises:
        CheckpointError: If it is too small.
    """
    if budget is None or (size := size_checkpoint(policy)) is None:
        return
    other = None if beside is None else size_checkpoint(beside)
    taken = 0 if other is None else find_need(other).beside
    require_fit(policy, find_need(size), budget, taken)


def open_within(
    policy: ModelPolicy, budget: int | None, *, streamed: bool = False, beside: ModelPolicy | None = None
) -> Checkpoint:
    """Open a model so that it and the work on it fit into a budget of memory, in bytes.

    It is opened as a whole where it fits, else so that each decoder layer is in memory only while it is used.
    Without a budget that is decided by what the machine has free. What it computes is the same either way.

    Args:
        policy: The model.
        budget: What models and the work on them may take.
        streamed: Whether layers are to be in memory only while they are used wherever that can be.
        beside: Another model that is read layer by layer beside it.

    Raises:
        CheckpointError: If it cannot be opened as it should be, or does not fit.
    """
    CheckpointFolder.require(policy)
    need, other = _size_up(policy), None if beside is None else _size_up(beside)
    taken = 0 if other is None else other.beside
    opening = choose_opening(need, budget, taken, streamed=streamed)
    if not opening.streamed:
        return replace(open_checkpoint(policy), memory=opening.memory)
    if budget is not None:
        require_fit(policy, need, budget, taken)
    try:
        opened = open_streaming(policy)
    except CannotStreamError as reason:
        if budget is None or fits_whole(need, budget - taken):
            return open_checkpoint(policy)
        asked = f"{quote_source(policy)} within {write_memory(budget)} of memory"
        found = f"as a whole it takes {write_memory(need.whole)}, and it cannot be read layer by layer: {reason}"
        remedy = f"give it more: --memory {_write_option(int(need.whole / _WHOLE_SHARE) + taken + 1)}"
        raise CheckpointError(asked, found, remedy) from reason
    return replace(opened, memory=opening.memory)


def _size_up(policy: ModelPolicy) -> Need:
    size = size_checkpoint(policy)
    if size is None:  # fetched by now, so it is here
        raise CheckpointError(quote_source(policy), "it is not here", "give the path of a checkpoint")
    return find_need(size)


def _write_option(count: int) -> str:
    mebibyte = 1 << 20
    return f"{-(-count // mebibyte)}MiB"
