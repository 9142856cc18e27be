"""Measures a checkpoint in a list of arms: the engine runs, its readers keep sums, and measurements come out."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from sw_audit.arms.replacement import LayerFactory
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.measure.engine import Observer, run_arms
from sw_audit.measure.parent_passes import ParentPasses
from sw_audit.measure.readers import (
    ChoiceBatch,
    ChoiceReader,
    WindowBatch,
    WindowReader,
    batch_choices,
    batch_windows,
)
from sw_audit.progress import Progress, ignore_progress
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.arm import Arm, Purpose
from sw_audit.record.measurement import Measurement


@dataclass
class Calibrations:
    """Text to calibrate on, and per layer what it showed; nothing until it was run once."""

    windows: Windows
    layers: Sequence[Calibration | None] = ()


def measure_arms(
    checkpoint: Checkpoint,
    arms: Sequence[Arm],
    windows: Windows,
    *,
    protocol: str,
    choices: Sequence[ChoiceItem] = (),
    choice_arms: Collection[Purpose] = (),
    stop_words: Tensor | None = None,
    calibration: Windows | Calibrations | None = None,
    factories: Mapping[str, LayerFactory] = MappingProxyType({}),
    parent: Checkpoint | None = None,
    parent_passes: ParentPasses | None = None,
    observer: Observer | None = None,
    progress: Progress = ignore_progress,
) -> tuple[Measurement, ...]:
    """Measure a model in every arm, in one pass over its weights; arms that do the same are run once.

    The model is bit-identical afterwards. Arms, parent, factories, observer and progress are those of `run_arms`;
    with a parent, agreement is with it, and its spread over tokens is kept. The signature of the protocol is kept
    with every figure. Multiple-choice items are answered in the baseline and in the arms of the given purposes;
    each begins with BOS if the windows do. Stop words are ids, int64 [ids]. On the calibration text
    nothing is scored: acts learn ranges on it; as `Calibrations` it is run once for several calls.

    Raises:
        CorpusError: If an item does not suit the model.
    """
    vocabulary = max(model.vocabulary for model in (checkpoint, parent) if model is not None)
    batches: list[WindowBatch | ChoiceBatch] = [*batch_windows(windows, vocabulary)]
    width = max(matrix.shape[0] for layer in checkpoint.layers for matrix in layer.matrices)
    batches += batch_choices(
        choices, checkpoint.tokenizer, windows.bos, vocabulary, checkpoint.maximum_positions, width
    )
    scored = len(batches)
    known = calibration.layers if isinstance(calibration, Calibrations) else []
    if calibration is not None and not known:
        unscored = calibration.windows if isinstance(calibration, Calibrations) else calibration
        batches += batch_windows(unscored, vocabulary)
    answers = [number == 0 or arm.purpose in choice_arms for number, arm in enumerate(arms)]
    models = [checkpoint if number or parent is None else parent for number in range(len(arms))]
    firsts, runs_of_arms = _find_alike(
        list(zip(map(id, models), [arm.acts for arm in arms], answers, strict=True))
    )
    reader = WindowReader(len(firsts), len(windows.token_ids), stop_words, keeps_tokens=parent is not None)
    chooser = ChoiceReader(len(firsts), [item.answer for item in choices], [len(item.choices) for item in choices])

    def read(batch: int, arm: int, places: Tensor, logits: Tensor, baseline: Tensor) -> None:
        read_batch = batches[batch]
        if isinstance(read_batch, WindowBatch):
            reader.read(read_batch, arm, places, logits, baseline)
        else:
            chooser.read(read_batch, arm, places, logits)

    done = run_arms(
        checkpoint,
        [arms[first] for first in firsts],
        [batch.token_ids for batch in batches],
        read,
        watched=lambda number: isinstance(batches[number], WindowBatch),
        included=lambda number, arm: isinstance(batches[number], WindowBatch) or answers[firsts[arm]],
        calibrating=lambda number: number >= scored,
        calibrations=known,
        pieces=lambda number: batches[number].pieces,
        factories=factories,
        parent=parent,
        prepare_parent=None if parent_passes is None else parent_passes.prepare,
        observer=observer,
        progress=progress,
    )
    if isinstance(calibration, Calibrations):
        calibration.layers = done[1 if parent is not None else 0].calibrations
    return tuple(
        Measurement(
            model=models[number].identity.id,
            arm=arm,
            protocol=protocol,
            loss=reader.loss(run),
            agreement=reader.agreement(run),
            stop_words=reader.stop_words(run),
            choices=chooser.accuracy(run) if answers[number] else None,
            peaks=done[run].peaks,
            down_inputs=tuple(done[run].down_inputs) if parent is None else (),
            down_outputs=tuple(done[run].down_outputs) if parent is None else (),
            routing=tuple(done[run].routing),
            seconds=done[run].seconds if firsts[run] == number else 0.0,
        )
        for number, (arm, run) in enumerate(zip(arms, runs_of_arms, strict=True))
    )


def _find_alike(conditions: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return where each different condition comes first, and per condition which of those it is.

    Controls that are drawn apart may hit the same scalars, in small models more often than not.
    """
    firsts = {condition: number for number, condition in reversed(list(enumerate(conditions)))}
    order = sorted(firsts.values())
    return order, [order.index(firsts[condition]) for condition in conditions]
