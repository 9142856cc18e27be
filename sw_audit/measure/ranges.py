"""What enters and leaves the down-projections of one layer, and where a mixture routes its tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from sw_audit.checkpoint.experts import FusedExperts, find_first_tensor, follow_experts
from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection
from sw_audit.errors import CheckpointError
from sw_audit.record.experts import RoutedLayer


class DownProjectionRange:
    """Keeps the largest magnitudes at the down-projections of a layer, over the calls that are watched.

    Of a mixture it counts, too, which experts the tokens are routed to.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        self._layer = layer
        self._inputs: list[float] = []
        self._outputs: list[float] = []
        self._unseen = False
        # What each expert's down-projection served: tokens, routing weight, largest outputs.
        self._served = {down: _Served() for down in layer.experts}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calls that are made inside."""
        with ExitStack() as stack:
            for down in self._layer.down_projections:
                if down.fused is None:
                    note = partial(self._note, down)
                    stack.callback(down.module.register_forward_hook(note, with_kwargs=True).remove)
            for fused in self._layer.fused_experts:
                note_all = partial(self._note_experts, fused)
                stack.callback(fused.module.register_forward_hook(note_all, with_kwargs=True).remove)
            yield

    @property
    def entering(self) -> float | None:
        """Largest magnitude that entered one; `None` if that cannot be seen or is not finite."""
        return None if self._unseen else _find_peak(self._inputs)

    @property
    def leaving(self) -> float | None:
        """Largest magnitude that left one, likewise."""
        return None if self._unseen else _find_peak(self._outputs)

    @property
    def finite(self) -> bool:
        """Whether all is finite that could be seen."""
        return all(math.isfinite(peak) for peak in (*self._inputs, *self._outputs))

    @property
    def routing(self) -> RoutedLayer | None:
        """Where tokens were routed; `None` of a layer without experts, and where they cannot be followed."""
        if self._unseen or not self._served:
            return None
        served = self._served.values()
        return RoutedLayer(
            layer=self._layer.index,
            tokens=tuple(one.tokens for one in served),
            weights=tuple(one.weight for one in served),
            peaks=tuple(_find_peak(one.peaks) for one in served),
        )

    def _note(
        self, down: DownProjection, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        entering = find_first_tensor((*inputs, *named.values()))
        self._note_peaks(entering, output)
        if (served := self._served.get(down)) is not None:
            # Some families give an expert all tokens, those of others as zeros.
            count = int(entering.reshape(-1, entering.shape[-1]).any(-1).sum())
            served.note(count, None, output)

    def _note_experts(
        self, fused: FusedExperts, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Any
    ) -> None:
        try:
            passes = follow_experts(fused, inputs, named)
        except CheckpointError:
            # Experts that cannot be followed have no figure here; that is no reason to measure nothing.
            self._unseen = True
            return
        downs = {down.expert: down for down in self._served if down.fused is fused}
        for run in passes:
            self._note_peaks(run.inputs, run.outputs)
            self._served[downs[run.expert]].note(len(run.tokens), run.scales, run.outputs)

    def _note_peaks(self, entering: Tensor, leaving: Tensor) -> None:
        for peaks, states in ((self._inputs, entering), (self._outputs, leaving)):
            if states.numel():
                peaks.append(float(states.abs().max()))


@dataclass
class _Served:
    """What one expert did with the tokens that were routed to it."""

    tokens: int = 0
    weight: float | None = 0.0
    peaks: list[float] = field(default_factory=list)

    def note(self, tokens: int, weights: Tensor | None, outputs: Tensor) -> None:
        if tokens:
            self.tokens += tokens
            self.peaks.append(float(outputs.abs().max()))
        more = None if weights is None else float(weights.double().sum())
        self.weight = None if self.weight is None or more is None else self.weight + more


def _find_peak(peaks: Sequence[float]) -> float | None:
    return max(peaks, default=None) if all(math.isfinite(peak) for peak in peaks) else None
