"""Runs all arms side by side, layer by layer, so that weights are read once however many arms there are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.calls import LayerCall, split_call
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.facts.arm import Arm, StandIn
from sw_audit.facts.progress import Progress, ignore_progress
from sw_audit.intervene.force import arm_in_force, touches
from sw_audit.intervene.rounding import SpareTensors
from sw_audit.measure.calibration import CalibrationNotes

LayerMaker = Callable[[DecoderLayer], nn.Module]
"""Makes a module that is called like a decoder layer and stands in for it."""


class Reader(Protocol):
    """Reads logits as they come: for each batch all arms, the baseline first."""

    def __call__(self, batch: int, arm: int, logits: Tensor, baseline: Tensor) -> None:
        """Take the logits, [sequences, tokens, vocabulary], of one batch in one arm and in the baseline."""


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
    watched: Callable[[int], bool] = lambda _: True,
    wanted: Callable[[int, int], bool] = lambda _, __: True,
    calibrating: Callable[[int], bool] = lambda _: False,
    stand_ins: Mapping[str, LayerMaker] = MappingProxyType({}),
    progress: Progress = ignore_progress,
) -> list[ArmRun]:
    """Run every arm over every batch and hand the logits to a reader.

    The model's own `forward` is used three times per batch: once with its layers replaced by recorders, which
    gives the embedded tokens and how each layer is called; then each layer is called by hand, arm by arm, with
    that arm in force; last, `forward` runs again with the layers replaced by the stored results, so that final
    norm, head and any scaling of logits are the model's own. Until its first touched layer an arm shares the
    baseline's hidden states.

    Args:
        checkpoint: The model.
        arms: The conditions; the first must be the baseline (no acts).
        batches: Token ids, int64 [sequences, tokens] each; within a batch all sequences have one length.
        reader: Is given the logits.
        watched: Which batches count for the peaks.
        wanted: Which batches, the first argument, are run in which arm, the second; the baseline runs all.
        calibrating: Which batches are there to calibrate on: only the baseline runs them, nobody reads their
            logits, and what they show of a layer is handed to every arm's acts on it.
        stand_ins: Per method that an arm's `StandIn` names, what makes a module of a layer. It is made once per
            layer and arm, run in the layer's place, and let go.
        progress: Told after each layer and each batch of logits.

    Returns:
        One entry per arm.

    Raises:
        ValueError: If the first arm has acts, or an arm has others beside a `StandIn`.
        KeyError: If an arm names a stand-in that is not given.
    """
    if arms[0].acts:
        raise ValueError(f"the first arm must be the baseline, not {arms[0].name!r}")
    makers = [_find_maker(arm, stand_ins) for arm in arms]
    layers = checkpoint.layers
    steps = len(layers) + len(batches)
    shapes = _learn_output_shapes(checkpoint, batches[0])
    calls, embedded = _record_calls(checkpoint, batches, shapes)
    runs, spare = [ArmRun() for _ in arms], SpareTensors()

    def runs_in(batch: int, arm: int) -> bool:
        return arm == 0 or (wanted(batch, arm) and not calibrating(batch))

    def counts(batch: int) -> bool:
        return watched(batch) and not calibrating(batch)

    # [arm][batch] of [sequences, tokens, hidden]; a batch that an arm does not run stays as it came in.
    hidden: list[list[Tensor]] = [embedded] * len(arms)

    for depth, layer in enumerate(layers):
        before = hidden[0]
        notes, calibration = CalibrationNotes(layer), None
        for number, arm in enumerate(arms):
            started = time.perf_counter()
            shared = number > 0 and hidden[number] is before and not touches(arm, layer)
            if shared:
                hidden[number] = hidden[0]
            else:
                maker = makers[number]
                module = layer.module if maker is None else maker(layer)
                with arm_in_force(arm, layer, calibration, spare):
                    hidden[number] = [
                        _run_layer(calls[depth][batch], module, states, notes if calibrating(batch) else None)
                        if runs_in(batch, number)
                        else states
                        for batch, states in enumerate(hidden[number])
                    ]
                del module
            # The baseline comes first, and has seen all that is calibrated on.
            calibration = calibration or notes.conclude()
            runs[number].peaks.append(
                runs[0].peaks[depth]
                if shared
                else _find_peak(
                    states
                    for batch, states in enumerate(hidden[number])
                    if watched(batch) and not calibrating(batch)
                )
            )
            runs[number].seconds += time.perf_counter() - started
        progress("measuring", depth + 1, steps)

    for batch, token_ids in enumerate(batches):
        baseline = None
        for number in range(len(arms)):
            if not runs_in(batch, number) or calibrating(batch):
                continue
            started = time.perf_counter()
            logits = _run_head(checkpoint, token_ids, hidden[number][batch], shapes)
            baseline = logits if baseline is None else baseline
            reader(batch, number, logits, baseline)
            runs[number].seconds += time.perf_counter() - started
        progress("measuring", len(layers) + batch + 1, steps)
    return runs


def _find_maker(arm: Arm, stand_ins: Mapping[str, LayerMaker]) -> LayerMaker | None:
    methods = [act.method for act in arm.acts if isinstance(act, StandIn)]
    if methods and len(arm.acts) > 1:
        raise ValueError(f"arm {arm.name!r} changes a layer that something else stands in for")
    return stand_ins[methods[0]] if methods else None


def _run_layer(call: LayerCall, module: nn.Module, hidden: Tensor, notes: CalibrationNotes | None) -> Tensor:
    with nullcontext() if notes is None else notes.watching():
        return _first(call(module, hidden))


def _learn_output_shapes(checkpoint: Checkpoint, token_ids: Tensor) -> list[int | None]:
    """Return, per layer, `None` where its output is a tensor, else the length of the tuple it returns."""
    shapes: list[int | None] = [None] * len(checkpoint.layers)

    def note(depth: int, _: object, __: object, output: Any) -> None:
        shapes[depth] = None if isinstance(output, Tensor) else len(output)

    handles = [
        layer.module.register_forward_hook(partial(note, depth)) for depth, layer in enumerate(checkpoint.layers)
    ]
    try:
        _call_model(checkpoint, token_ids[:1, :2])
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _record_calls(
    checkpoint: Checkpoint, batches: Sequence[Tensor], shapes: list[int | None]
) -> tuple[list[list[LayerCall]], list[Tensor]]:
    """Return how each layer is called, [layer][batch], and what enters the first one, [batch]."""
    calls: list[list[LayerCall]] = [[] for _ in checkpoint.layers]
    embedded: list[Tensor] = []

    def record(depth: int, *positional: Any, **named: Any) -> Any:
        hidden, call = split_call(positional, named)
        calls[depth].append(call)
        if depth == 0:
            embedded.append(hidden)
        return _like_layer(hidden, shapes[depth])

    with _layers_replaced(checkpoint.layers, record):
        for token_ids in batches:
            _call_model(checkpoint, token_ids)
    return calls, embedded


def _run_head(checkpoint: Checkpoint, token_ids: Tensor, hidden: Tensor, shapes: list[int | None]) -> Tensor:
    last = len(checkpoint.layers) - 1

    def pass_on(depth: int, *positional: Any, **named: Any) -> Any:
        states = hidden if depth == last else split_call(positional, named)[0]
        return _like_layer(states, shapes[depth])

    with _layers_replaced(checkpoint.layers, pass_on):
        logits: Tensor = _call_model(checkpoint, token_ids).logits
    return logits


@contextmanager
def _layers_replaced(layers: Sequence[DecoderLayer], forward: Callable[..., Any]) -> Iterator[None]:
    # Another library may have put a forward of its own on the module: it is put back as it was.
    stored = [layer.module.__dict__.get("forward") for layer in layers]
    try:
        for depth, layer in enumerate(layers):
            layer.module.forward = partial(forward, depth)
        yield
    finally:
        for layer, previous in zip(layers, stored, strict=True):
            layer.module.__dict__.pop("forward", None)
            if previous is not None:
                layer.module.forward = previous


def _call_model(checkpoint: Checkpoint, token_ids: Tensor) -> Any:
    device = next(checkpoint.model.parameters()).device
    return checkpoint.model(input_ids=token_ids.to(device), use_cache=False)


def _find_peak(outputs: Iterable[Tensor]) -> float | None:
    peaks = [float(states.abs().max()) for states in outputs]
    return max(peaks, default=0.0) if all(math.isfinite(peak) for peak in peaks) else None


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _like_layer(hidden: Tensor, shape: int | None) -> Any:
    return hidden if shape is None else (hidden, *[None] * (shape - 1))
