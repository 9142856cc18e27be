"""Runs all arms side by side, layer by layer, so that weights are read once however many arms there are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sw_audit.arms.apply import applied_arm, touches
from sw_audit.arms.rounding import SpareTensors
from sw_audit.arms.swapping import ModuleSource
from sw_audit.checkpoint.calls import LayerCall
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.calibration import CalibrationNotes
from sw_audit.measure.layerwise import LayerwiseRunner
from sw_audit.progress import Progress, ignore_progress
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.arm import Arm, ReplaceLayer, SwapModules

LayerFactory = Callable[[DecoderLayer], nn.Module]
"""Makes a module that is called like a decoder layer and stands in for it."""


class Reader(Protocol):
    """Reads logits as they come: for each batch all arms, the baseline first."""

    def __call__(self, batch: int, arm: int, logits: Tensor, baseline: Tensor) -> None:
        """Take the logits, [sequences, tokens, vocabulary], of one batch in one arm and in the baseline."""


class Observer(Protocol):
    """Watches the decoder layers as all arms pass through them."""

    def watching(self, arm: int, layer: DecoderLayer) -> AbstractContextManager[None]:
        """Return what is in force while one arm's batches run through a layer."""

    def see(
        self,
        layer: DecoderLayer,
        calls: Sequence[LayerCall],
        entering: Sequence[Tensor],
        leaving: list[list[Tensor]],
    ) -> None:
        """Take note of a layer that all arms have passed.

        Args:
            layer: The layer, of the model that is measured.
            calls: How it is called, [batch].
            entering: What entered it in the first arm, [batch].
            leaving: What left it, [arm][batch].
        """


@dataclass
class ArmRun:
    """What the engine itself notes about one arm.

    Attributes:
        peaks: Per decoder layer, the largest magnitude in its output over the watched batches, `None` where
            an output is not finite.
        seconds: Time spent.
    """

    peaks: list[float | None] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def run_arms(
    checkpoint: Checkpoint,
    arms: Sequence[Arm],
    batches: Sequence[Tensor],
    reader: Reader,
    *,
    parent: Checkpoint | None = None,
    watched: Callable[[int], bool] = lambda _: True,
    wanted: Callable[[int, int], bool] = lambda _, __: True,
    calibrating: Callable[[int], bool] = lambda _: False,
    stand_ins: Mapping[str, LayerFactory] = MappingProxyType({}),
    observer: Observer | None = None,
    progress: Progress = ignore_progress,
) -> list[ArmRun]:
    """Run every arm over every batch and hand the logits to a reader.

    What comes before and after the layers is the model's own `forward` (see `LayerwiseRunner`). Each layer is
    called by hand, arm by arm, with that arm applied. Up to its first changed layer an arm shares the hidden
    states of the model as it is.

    With a parent the first arm is the parent as it is, and what all others are compared with; the second is the
    model as it is, and the acts of further ones may borrow modules from the parent. Both models go forward
    together, so of a parent that was opened as a stream there is never more than one layer in memory.

    Args:
        checkpoint: The model.
        arms: The conditions; the first must be the baseline (no acts), with a parent the second too.
        batches: Token ids, int64 [sequences, tokens] each; within a batch all sequences have one length.
        reader: Is given the logits.
        parent: What the model was made from.
        watched: Which batches count for the peaks.
        wanted: Which batches, the first argument, are run in which arm, the second; the baseline runs all.
        calibrating: Which batches are there to calibrate on: only the baseline runs them, nobody reads their
            logits, and what they show of a layer is handed to every arm's acts on it.
        stand_ins: Per method that an arm's `ReplaceLayer` names, what makes a module of a layer. It is made once
            per layer and arm, run in the layer's place, and let go.
        observer: Watches the layers.
        progress: Told after each layer and each batch of logits.

    Returns:
        One entry per arm.

    Raises:
        ValueError: If the first arm has acts, or an arm has others beside a `ReplaceLayer`.
        KeyError: If an arm names a stand-in that is not given.
    """
    own = 0 if parent is None else 1
    if changed := [arm.name for arm in arms[: own + 1] if arm.acts]:
        raise ValueError(f"the first arm must be the baseline, not {changed[0]!r}")
    makers = [_find_maker(arm, stand_ins) for arm in arms]
    stages = [LayerwiseRunner(checkpoint, batches)] * len(arms)
    if parent is not None:
        stages[0] = LayerwiseRunner(parent, batches)
    under_way = _Pass(arms, stages, makers, own, watched, wanted, calibrating, observer)
    depths = max(len(stage.layers) for stage in stages)
    steps = depths + len(batches)
    for depth in range(depths):
        under_way.run_layer(depth)
        progress("measuring", depth + 1, steps)
    for batch, token_ids in enumerate(batches):
        under_way.run_heads(batch, token_ids, reader)
        progress("measuring", depths + batch + 1, steps)
    return under_way.runs


@dataclass
class _Pass:
    """All arms on their way through the layers; see `run_arms`. `own` is the arm with the model as it is."""

    arms: Sequence[Arm]
    stages: Sequence[LayerwiseRunner]
    makers: Sequence[LayerFactory | None]
    own: int
    watched: Callable[[int], bool]
    wanted: Callable[[int, int], bool]
    calibrating: Callable[[int], bool]
    observer: Observer | None
    spare: SpareTensors = field(default_factory=SpareTensors)

    def __post_init__(self) -> None:
        self.runs = [ArmRun() for _ in self.arms]
        # [arm][batch] of [sequences, tokens, hidden]; a batch that an arm does not run stays as it came in.
        self._hidden: list[list[Tensor]] = [stage.embedded for stage in self.stages]

    def run_layer(self, depth: int) -> None:
        """Let every arm pass one layer."""
        entering = list(self._hidden)
        layers = [stage.find_layer(depth) for stage in self.stages]
        lender = _find_lender(self.arms, layers) if self.own else None
        calibration: Calibration | None = None
        for number, (arm, layer) in enumerate(zip(self.arms, layers, strict=True)):
            if layer is None:
                continue
            started = time.perf_counter()
            run = self.runs[number]
            if number > self.own and entering[number] is entering[self.own] and not touches(arm, layer):
                self._hidden[number] = self._hidden[self.own]
                run.peaks.append(self.runs[self.own].peaks[depth])
            else:
                notes = CalibrationNotes(layer)
                with ExitStack() as stack:
                    stack.enter_context(applied_arm(arm, layer, calibration, self.spare, lender))
                    if self.observer is not None:
                        stack.enter_context(self.observer.watching(number, layer))
                    if lender is not None and number < self.own:
                        stack.enter_context(lender.watching())
                    self._hidden[number] = self._run(number, layer, depth, notes)
                # The baseline comes first, and has seen all that is calibrated on.
                calibration = calibration or notes.conclude()
                run.peaks.append(
                    _find_peak(one for batch, one in enumerate(self._hidden[number]) if self._counts(batch))
                )
            run.seconds += time.perf_counter() - started
        if self.observer is not None and (layer := layers[self.own]) is not None:
            self.observer.see(layer, self.stages[self.own].calls[depth], entering[0], self._hidden)

    def run_heads(self, batch: int, token_ids: Tensor, reader: Reader) -> None:
        """Let a reader have the logits of every arm on one batch."""
        baseline = None
        for number, stage in enumerate(self.stages):
            if self._runs_in(batch, number) and not self.calibrating(batch):
                started = time.perf_counter()
                logits = stage.run_head(token_ids, self._hidden[number][batch])
                baseline = logits if baseline is None else baseline
                reader(batch, number, logits, baseline)
                self.runs[number].seconds += time.perf_counter() - started

    def _run(self, number: int, layer: DecoderLayer, depth: int, notes: CalibrationNotes) -> list[Tensor]:
        maker = self.makers[number]
        module = layer.module if maker is None else maker(layer)
        return [
            _run_layer(
                self.stages[number].calls[depth][batch], module, states, notes if self.calibrating(batch) else None
            )
            if self._runs_in(batch, number)
            else states
            for batch, states in enumerate(self._hidden[number])
        ]

    def _runs_in(self, batch: int, arm: int) -> bool:
        return arm <= self.own or (self.wanted(batch, arm) and not self.calibrating(batch))

    def _counts(self, batch: int) -> bool:
        return self.watched(batch) and not self.calibrating(batch)


def _find_maker(arm: Arm, stand_ins: Mapping[str, LayerFactory]) -> LayerFactory | None:
    methods = [act.method for act in arm.acts if isinstance(act, ReplaceLayer)]
    if methods and len(arm.acts) > 1:
        raise ValueError(f"arm {arm.name!r} changes a layer that something else stands in for")
    return stand_ins[methods[0]] if methods else None


def _find_lender(arms: Sequence[Arm], layers: Sequence[DecoderLayer | None]) -> ModuleSource | None:
    """Return what lends parts of the parent's layer, the first, where an arm asks for them."""
    source, borrower = layers[0], layers[-1]
    modules = [name for arm in arms for act in arm.acts if isinstance(act, SwapModules) for name in act.modules]
    if source is None or borrower is None or not modules:
        return None
    return ModuleSource(source, borrower, modules)


def _run_layer(call: LayerCall, module: nn.Module, hidden: Tensor, notes: CalibrationNotes | None) -> Tensor:
    with nullcontext() if notes is None else notes.watching():
        return _first(call(module, hidden))


def _find_peak(outputs: Iterable[Tensor]) -> float | None:
    peaks = [float(states.abs().max()) for states in outputs]
    return max(peaks, default=0.0) if all(math.isfinite(peak) for peak in peaks) else None


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
