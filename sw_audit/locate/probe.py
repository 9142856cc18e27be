"""One forward pass with hooks: the residual stream, and what goes into and comes out of each down-projection."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sw_audit.checkpoint.calls import LayerCall, copy_rows, split_call
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.capture import LayerWatch
from sw_audit.locate.observation import DownObservation


class _EnoughError(Exception):
    """The layers that were asked for have run."""


@dataclass(frozen=True)
class Probe:
    """What one prompt showed; everything float32 on the CPU.

    Attributes:
        token_ids: The prompt.
        embedded: What enters the first decoder layer, [tokens, hidden].
        residual: Output of each decoder layer that ran, [layers, tokens, hidden].
        observations: What each down-projection did, layer by layer; an expert that served no token is left out.
        layers: How many decoder layers the model has.
        entries: What entered each decoder layer that ran, as it was: dtype, shape and device are the model's.
        calls: What else each was called with.
    """

    token_ids: tuple[int, ...]
    embedded: Tensor
    residual: Tensor
    observations: tuple[DownObservation, ...]
    layers: int
    entries: tuple[Tensor, ...]
    calls: tuple[LayerCall, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all decoder layers ran."""
        return len(self.residual) == self.layers

    def observed_in(self, layer: int) -> tuple[DownObservation, ...]:
        """Return what the down-projections of one decoder layer did."""
        return tuple(one for one in self.observations if one.layer == layer)


@torch.no_grad()
def probe_prompt(checkpoint: Checkpoint, token_ids: Sequence[int], layers: int | None = None) -> Probe:
    """Run the model once on one prompt, up to the last decoder layer that is asked for and no further.

    Args:
        checkpoint: The model, whose weights are not changed.
        token_ids: The prompt, BOS included if wanted.
        layers: How many decoder layers to run; all by default.

    Raises:
        CheckpointError: If the residual stream is not finite on the prompt, or experts cannot be followed.
    """
    watched = checkpoint.layers[:layers]
    entries: list[Tensor] = []
    calls: list[LayerCall] = []
    residual: dict[int, Tensor] = {}
    watches = [LayerWatch(layer) for layer in watched]

    def keep_entering(_: object, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden, call = split_call(positional, named)
        # A copy: some families add into what enters a layer.
        entries.append(hidden.detach().clone())
        calls.append(call)

    def keep_residual(depth: int, _: object, __: object, output: Any) -> None:
        residual[depth] = copy_rows(output if isinstance(output, Tensor) else output[0])
        if depth == watched[-1].index:
            # What follows, down to the head, would be for nothing.
            raise _EnoughError

    handles: list[RemovableHandle] = []
    try:
        for watch in watches:
            handles.append(watch.layer.module.register_forward_pre_hook(keep_entering, with_kwargs=True))
            handles.append(watch.layer.module.register_forward_hook(partial(keep_residual, watch.layer.index)))
            handles += watch.hook()
        given = torch.tensor([list(token_ids)], device=checkpoint.device)
        with suppress(_EnoughError):
            checkpoint.model(input_ids=given, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    _refuse_non_finite(checkpoint, residual)
    return Probe(
        token_ids=tuple(token_ids),
        embedded=copy_rows(entries[0]),
        residual=torch.stack([residual[depth] for depth in range(len(watched))]),
        observations=tuple(one for watch in watches for one in watch.observations()),
        layers=len(checkpoint.layers),
        entries=tuple(entries),
        calls=tuple(calls),
    )


def _refuse_non_finite(checkpoint: Checkpoint, residual: dict[int, Tensor]) -> None:
    for depth, states in sorted(residual.items()):
        if not bool(states.isfinite().all()):
            raise CheckpointError(
                f"model {checkpoint.identity.source}",
                f"the output of decoder layer {depth} is not finite in {checkpoint.identity.dtype}",
                "load it in a wider dtype, such as float32, or repair the checkpoint",
            )
