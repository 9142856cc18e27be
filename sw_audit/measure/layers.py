"""Notes, layer by layer, how far a descendant is from its parent, and the range of its down-projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.calls import LayerCall
from sw_audit.checkpoint.experts import FusedExperts, find_first_tensor, follow_experts
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError
from sw_audit.measure.batches import WindowBatch
from sw_audit.record.descent import LayerError

_DESCENDANT = 1


class LayerNotes:
    """An observer of `run_arms` with a parent: sums over the scored tokens, layer by layer.

    What is not scored is left out of signal and noise: the token that a window begins with carries a massive
    activation in most models, beside which every error would look small.

    Args:
        batches: The windows, as given to `run_arms`.

    Attributes:
        errors: One entry per layer that both models have, as far as the parent is finite.
    """

    def __init__(self, batches: Sequence[WindowBatch]) -> None:
        self.errors: list[LayerError] = []
        self._scored = [_mark_scored(batch) for batch in batches]
        self._down_input, self._down_output = _Peak(), _Peak()

    @contextmanager
    def watching(self, arm: int, layer: DecoderLayer) -> Iterator[None]:
        """Watch the down-projections of the descendant as it is."""
        with ExitStack() as stack:
            if arm == _DESCENDANT:
                self._down_input, self._down_output = _Peak(), _Peak()
                for down in layer.down_projections:
                    if down.fused is None:
                        stack.callback(down.module.register_forward_hook(self._note, with_kwargs=True).remove)
                for fused in layer.fused_experts:
                    note = partial(self._note_experts, fused)
                    stack.callback(fused.module.register_forward_hook(note, with_kwargs=True).remove)
            yield

    def see(
        self,
        layer: DecoderLayer,
        calls: Sequence[LayerCall],
        entering: Sequence[Tensor],
        leaving: Sequence[Sequence[Tensor]],
    ) -> None:
        """Hold what left the descendant's layer against what left the parent's."""
        parents, own = leaving[0], leaving[_DESCENDANT]
        if any(one.shape != two.shape for one, two in zip(parents, own, strict=True)):
            return
        signal = self._sum(lambda batch: parents[batch])
        if signal is None:
            return

        def run_on_parents(batch: int) -> Tensor:
            output: Any = calls[batch](layer.module, entering[batch].to(own[batch].device, own[batch].dtype))
            return output if isinstance(output, Tensor) else output[0]

        self.errors.append(
            LayerError(
                layer=layer.index,
                signal=signal,
                noise=self._sum(lambda batch: own[batch], lambda batch: parents[batch]),
                own_noise=self._sum(run_on_parents, lambda batch: parents[batch]),
                down_input=self._down_input.value,
                down_output=self._down_output.value,
                finite=self._down_input.finite and self._down_output.finite,
            )
        )

    def _sum(self, one: Callable[[int], Tensor], other: Callable[[int], Tensor] | None = None) -> float | None:
        """Sum the squares of a state, or of the difference of two, over scored tokens; `None` if not finite."""
        total = 0.0
        for batch, scored in enumerate(self._scored):
            state = one(batch)
            kept = state[scored.to(state.device)].double()  # [tokens, hidden]
            if other is not None:
                against = other(batch)
                kept = kept - against[scored.to(against.device)].to(kept.device).double()
            total += float(kept.square().sum())
        return total if math.isfinite(total) else None

    def _note(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._down_input.take(find_first_tensor((*inputs, *named.values())))
        self._down_output.take(output)

    def _note_experts(
        self, fused: FusedExperts, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Any
    ) -> None:
        try:
            passes = follow_experts(fused, inputs, named)
        except CheckpointError:
            # Experts that cannot be followed have no figure here; that is no reason to measure nothing.
            self._down_input.unseen = self._down_output.unseen = True
            return
        for one in passes:
            self._down_input.take(one.inputs)
            self._down_output.take(one.outputs)


class _Peak:
    """The largest magnitude of what it is given.

    Attributes:
        finite: Whether all of it was finite.
        unseen: Whether there was something that could not be seen.
    """

    def __init__(self) -> None:
        self.finite, self.unseen = True, False
        self._largest: float | None = None

    @property
    def value(self) -> float | None:
        """The largest magnitude; `None` without one, or where it is not known."""
        return self._largest if self.finite and not self.unseen else None

    def take(self, states: Tensor) -> None:
        """Take note of states of any shape."""
        if states.numel():
            largest = float(states.abs().max())
            self.finite = self.finite and math.isfinite(largest)
            self._largest = max(largest, self._largest or 0.0)


def _mark_scored(batch: WindowBatch) -> Tensor:
    """Return which tokens are scored, bool [windows, tokens]."""
    return torch.arange(batch.token_ids.shape[1])[None, :] >= batch.first_scored[:, None]
