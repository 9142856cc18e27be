"""Watching a training run: what carries the model is read every n steps, and a stop where it goes.

trainer = Trainer(..., processing_class=tokenizer, callbacks=[SuperWeightWatch(every=50, stop=True)])
"""

# ruff: noqa: ARG002 - the trainer calls every event with all of its arguments

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from sw_audit.checkpoint.live import open_live_model
from sw_audit.checks.critical_scalars_retained import hold_scalar
from sw_audit.checks.critical_scalars_unmoved import CriticalScalarsUnmovedLimits
from sw_audit.checks.drift import judge_activation, judge_weight
from sw_audit.checks.super_activation_unmoved import SuperActivationUnmovedLimits
from sw_audit.checks.super_weight_unmoved import SuperWeightUnmovedLimits
from sw_audit.critical.search import find_critical_scalars
from sw_audit.errors import CheckpointError, InputError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.critical_scalars import read_critical_scalars
from sw_audit.measure.retention import read_location
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.location import Location
from sw_audit.record.store import choose_baseline, open_baseline
from sw_audit.record.verdict import Finding, Status

_LOG = logging.getLogger("sw_audit.training")


@dataclass(frozen=True)
class Reading:
    """What was read at one step of the optimizer, at a time (ISO 8601 in UTC).

    There is one finding per watched super weight, then per super activation, then per critical scalar beside the
    super weights, each held against its limit.
    """

    step: int
    time: str
    weights: tuple[HeldWeight, ...]
    activations: tuple[HeldActivation, ...]
    findings: tuple[Finding, ...]
    scalars: tuple[RetainedScalar, ...] = ()

    @property
    def failed(self) -> Finding | None:
        """The first that is out of its limits."""
        return next((finding for finding in self.findings if finding.status is not Status.PASS), None)

    def figures(self) -> dict[str, float]:
        """Return what is logged: values, and how far they have moved; what is not finite is left out."""
        figures: dict[str, float | None] = {}
        for weight in self.weights:
            name = f"super_weight/layer{weight.layer}[{weight.address.row},{weight.address.column}]"
            figures |= {name: weight.value, f"{name}/drift": weight.drift}
        for loud in self.activations:
            name = f"super_activation/channel{loud.channel}"
            figures |= {
                name: loud.value,
                f"{name}/ratio": None if loud.value is None else loud.value / loud.before,
            }
        for scalar in self.scalars:
            name = f"critical_scalar/{scalar.address.parameter}[{','.join(map(str, scalar.address.index))}]"
            figures |= {name: scalar.value, f"{name}/drift": scalar.relative_error}
        return {name: value for name, value in figures.items() if value is not None}


class SuperWeightWatch(TrainerCallback):
    """Logs the super weights and super activations of a model while it is trained, and can stop the run.

    They are located when training begins, or taken from a baseline. Figures go into `state.log_history`, into
    what the trainer logs next, and into `readings`. A reading is one pass over a prompt of a few tokens; weights,
    random state and the mode of every module are as they were after it. Scalars of other parameters that matter
    are watched, too, where a baseline knows them, or they are asked for.

    Args:
        every: Read after so many optimizer steps; the first and last step are read anyway.
        stop: Whether to end training where a limit is passed.
        baseline: Name of a baseline or path of a record that says what to watch; by default the model itself as
            it is when training begins.
        weights: How far super weights may move.
        activations: How far super activations may move.
        scalars: How far other critical scalars may move.
        report: Called with every reading, such as to log it elsewhere.
        critical: Whether to search for critical scalars when training begins, unless the baseline knows them.
        text: What that is done on, as the `source` of `[corpus]`; by default a text that the model writes itself.

    Attributes:
        readings: All that was read, in order.
        stopped: Why the run was ended; `None` if it was not.
    """

    def __init__(
        self,
        every: int = 50,
        *,
        stop: bool = False,
        baseline: str | None = None,
        weights: SuperWeightUnmovedLimits | None = None,
        activations: SuperActivationUnmovedLimits | None = None,
        scalars: CriticalScalarsUnmovedLimits | None = None,
        report: Callable[[Reading], None] | None = None,
        critical: bool = False,
        text: str | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"SuperWeightWatch(every={every})", "it is less than one step", "give 1 or more")
        self.readings: list[Reading] = []
        self.stopped: str | None = None
        self._every, self._stop, self._report = every, stop, report
        self._weights = weights or SuperWeightUnmovedLimits()
        self._activations = activations or SuperActivationUnmovedLimits()
        self._scalars = scalars or CriticalScalarsUnmovedLimits()
        before = None if baseline is None else _find_baseline(baseline)
        self._location: Location | None = None if before is None else before.location
        self._search: CriticalSearch | None = None if before is None else before.critical
        self._critical, self._text = critical, text
        self._unlogged: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Find what is to be watched, and read it once.

        Raises:
            InputError: If there is no tokenizer to read it with, or the text cannot be used.
        """
        if not state.is_world_process_zero:
            return
        if given.get("processing_class") is None:
            remedy = "give the Trainer its tokenizer as `processing_class`"
            raise InputError("SuperWeightWatch", "the trainer has no tokenizer", remedy)
        with open_live_model(given["model"], given["processing_class"]) as checkpoint:
            if self._location is None:
                self._location = locate_super_weights(checkpoint)
            if self._critical and self._search is None:
                text = None if self._text is None else CorpusPolicy(source=self._text)
                self._search = find_critical_scalars(checkpoint, text, self._location)
        if not self._watches:
            because = self._location.because
            _LOG.warning("no super weight to watch (outcome %s): %s", self._location.outcome, because)
            return
        self._read(state, control, given)

    @property
    def _watches(self) -> bool:
        """Whether there is anything to watch."""
        critical = self._search is not None and bool(self._search.critical)
        return self._location is not None and (critical or bool(self._location.super_weights))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Read what is watched, if it is time."""
        if state.global_step % self._every == 0:
            self._read(state, control, given)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Read what is watched a last time."""
        if self.readings and self.readings[-1].step != state.global_step:
            self._read(state, control, given)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **given: Any
    ) -> None:
        """Add what was read since to what the trainer logs."""
        if logs is not None:
            logs.update(self._unlogged)
            self._unlogged = {}

    def _read(self, state: TrainerState, control: TrainerControl, given: dict[str, Any]) -> None:
        location, search = self._location, self._search
        if location is None or not self._watches or not state.is_world_process_zero:
            return
        with open_live_model(given["model"], given["processing_class"]) as checkpoint:
            weights, activations = read_location(checkpoint, location)
            scalars = read_critical_scalars(checkpoint, search, location) if search else ()
        located = {weight.scalar for weight in location.super_weights}
        others = tuple(scalar for scalar in scalars if scalar.address not in located)
        lowest, highest = self._activations.minimum_ratio, self._activations.maximum_ratio
        findings = [judge_weight(weight, self._weights.maximum_drift) for weight in weights]
        findings += [judge_activation(held, lowest, highest) for held in activations]
        findings += [hold_scalar(scalar, self._scalars.maximum_drift) for scalar in others]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        reading = Reading(state.global_step, now, weights, activations, tuple(findings), others)
        self.readings.append(reading)
        self._unlogged = reading.figures()
        state.log_history.append({**self._unlogged, "step": state.global_step})
        if self._report is not None:
            self._report(reading)
        if (failed := reading.failed) is not None:
            reason = f"step {reading.step}: {failed.label} {failed.because}"
            _LOG.warning("%s", reason)
            if self._stop and self.stopped is None:
                self.stopped, control.should_training_stop = reason, True


def _find_baseline(name: str) -> Baseline:
    baseline = choose_baseline(open_baseline(name), name, [])
    if not baseline.location.super_weights and not (baseline.critical and baseline.critical.critical):
        found = "it has no super weight to watch, and no other critical scalar"
        raise CheckpointError(f"baseline {name!r}", found, "name another")
    return baseline
