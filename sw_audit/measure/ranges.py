"""The largest magnitudes that enter and leave the down-projections of one layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from sw_audit.checkpoint.experts import FusedExperts, find_first_tensor, follow_experts
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CheckpointError


class DownProjectionRange:
    """Keeps the largest magnitudes at the down-projections of a layer, over the calls that are watched."""

    def __init__(self, layer: DecoderLayer) -> None:
        self._layer = layer
        self._inputs: list[float] = []
        self._outputs: list[float] = []
        self._unseen = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calls that are made inside."""
        with ExitStack() as stack:
            for down in self._layer.down_projections:
                if down.fused is None:
                    stack.callback(down.module.register_forward_hook(self._note, with_kwargs=True).remove)
            for fused in self._layer.fused_experts:
                note = partial(self._note_experts, fused)
                stack.callback(fused.module.register_forward_hook(note, with_kwargs=True).remove)
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

    def _note(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._note_peaks(find_first_tensor((*inputs, *named.values())), output)

    def _note_experts(
        self, fused: FusedExperts, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Any
    ) -> None:
        try:
            passes = follow_experts(fused, inputs, named)
        except CheckpointError:
            # Experts that cannot be followed have no figure here; that is no reason to measure nothing.
            self._unseen = True
            return
        for run in passes:
            self._note_peaks(run.inputs, run.outputs)

    def _note_peaks(self, entering: Tensor, leaving: Tensor) -> None:
        for peaks, states in ((self._inputs, entering), (self._outputs, leaving)):
            if states.numel():
                peaks.append(float(states.abs().max()))


def _find_peak(peaks: Sequence[float]) -> float | None:
    return max(peaks, default=None) if all(math.isfinite(peak) for peak in peaks) else None
