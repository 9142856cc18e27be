"""Zeroes scalars of a model, alone or together, and keeps what each trial costs on every window of a text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import ModelParameter
from sw_audit.checks.statistics import bound_perplexity_ratio
from sw_audit.corpus.windows import Windows
from sw_audit.measure.engine import run_arms
from sw_audit.measure.readers import LossReader, batch_windows
from sw_audit.policy.policy import Intervention
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import BASELINE, Arm, Custom, SetScalars
from sw_audit.record.critical import Effect
from sw_audit.record.measurement import PerWindow

_STATES_AT_ONCE = 1 << 30
"""Bytes of hidden states that all trials of one pass may hold."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A scalar that is tried.

    Attributes:
        parameter: Whose it is.
        index: Which one, as addressed.
        value: As it is stored.
        rank: Its place by the gradient, 1 first; `None` if it is not known.
        located: Whether it is a located super weight.
    """

    parameter: ModelParameter
    index: tuple[int, ...]
    value: float
    rank: int | None = None
    located: bool = False

    @property
    def address(self) -> ScalarAddress:
        """Where it is."""
        return ScalarAddress(parameter=self.parameter.name, index=self.index)

    def change(self, intervention: Intervention | float) -> float:
        """Return what it is set to, as it is stored; a number is that itself."""
        offset = self.parameter.offset
        match intervention:
            case float():
                return intervention
            case "zero":
                return -offset
            case "one":
                return 1.0 - offset
            case "negate":
                return -self.value - 2 * offset
            case "median":
                row = self.parameter.weight[self.index[:-1]]
                return float(row.float().median())


Trial = frozenset[tuple[Tried, Intervention | float]]
"""What is done together; the empty one is the model as it is."""
NOTHING: Trial = frozenset()


def zeroing(scalars: Iterable[Tried]) -> Trial:
    """Return the trial in which all of some scalars are zeroed."""
    return frozenset((scalar, "zero") for scalar in scalars)


@dataclass(eq=False)
class Trials:
    """All trials of one model on one text, each measured once on each window.

    Attributes:
        checkpoint: The model; bit-identical after each call.
        windows: The text.
        progress: Told where a round of trials stands.
        tokens: How many tokens were run, over all trials.
    """

    checkpoint: Checkpoint
    windows: Windows
    progress: Progress = ignore_progress
    tokens: int = 0
    _nats: dict[Trial, PerWindow] = field(default_factory=dict)

    @property
    def questions(self) -> int:
        """How many different trials were measured."""
        return len(self._nats.keys() - {NOTHING})

    def measure(self, trials: Iterable[Trial], windows: int) -> None:
        """Measure trials on the first windows, as far as that has not been done."""
        waiting: defaultdict[int, list[Trial]] = defaultdict(list)
        for trial in dict.fromkeys([NOTHING, *trials]):
            if (begin := len(self._nats.get(trial, ()))) < windows:
                waiting[begin].append(trial)
        for begin, some in waiting.items():
            width = self.checkpoint.identity.hidden_size * 4
            at_once = max(8, _STATES_AT_ONCE // ((windows - begin) * self.windows.token_ids.shape[1] * width))
            for first in range(0, len(some), at_once):
                self._run(some[first : first + at_once], begin, windows)

    def _run(self, trials: Sequence[Trial], begin: int, end: int) -> None:
        asked = [trial for trial in trials if trial]
        part = self.windows.part(begin, end)
        batches = batch_windows(part, self.checkpoint.vocabulary)
        reader = LossReader(1 + len(asked), end - begin)

        def read(batch: int, arm: int, places: Tensor, logits: Tensor, _: Tensor) -> None:
            reader.read(batches[batch], arm, places, logits)

        run_arms(
            self.checkpoint,
            [BASELINE, *(_make_arm(number, trial) for number, trial in enumerate(asked))],
            [batch.token_ids for batch in batches],
            read,
            pieces=lambda number: batches[number].pieces,
            progress=self.progress,
        )
        self.tokens += part.token_ids.numel() * (1 + len(asked))
        for arm, trial in enumerate([NOTHING, *asked]):
            if len(before := self._nats.get(trial, ())) == begin:
                self._nats[trial] = (*before, *reader.nats(arm))

    def count_windows(self, trial: Trial) -> int:
        """Return on how many windows a trial was measured."""
        return len(self._nats.get(trial, ()))

    def cost(self, trial: Trial, against: Trial = NOTHING) -> float:
        """Return how many nats per token a trial costs beyond another; infinite where it is not finite."""
        count = min(self.count_windows(trial), self.count_windows(against))
        pairs = list(zip(self._nats[trial][:count], self._nats[against][:count], strict=True))
        differences = [math.inf if one is None else one - (other or 0.0) for one, other in pairs]
        return math.fsum(differences) / sum(self._count_tokens(count))

    def effect(self, trial: Trial, confidence: float, against: Trial = NOTHING, minimum: int = 2) -> Effect:
        """Return a trial's perplexity over another's, with its interval where there are windows for one."""
        count = min(self.count_windows(trial), self.count_windows(against))
        nats, other = self._nats[trial][:count], self._nats[against][:count]
        if None in nats or None in other:
            return Effect(ratio=None, windows=count)
        ends = bound_perplexity_ratio(nats, other, self._count_tokens(count), confidence)  # type: ignore[arg-type]
        ratio, low, high = (end if math.isfinite(end) else None for end in ends)
        return Effect(
            ratio=ratio,
            low=low if count >= minimum else None,
            high=high if count >= minimum else None,
            windows=count,
        )

    def _count_tokens(self, count: int) -> list[int]:
        length = self.windows.token_ids.shape[1]
        return [length - first for first in self.windows.first_scored[:count].tolist()]


def _make_arm(number: int, trial: Trial) -> Arm:
    changes = sorted(trial, key=lambda change: str(change[0].address))
    act = SetScalars(
        scalars=tuple(scalar.address for scalar, _ in changes),
        values=tuple(scalar.change(intervention) for scalar, intervention in changes),
    )
    return Arm(purpose=Custom(label=f"trial {number + 1}"), acts=(act,))
