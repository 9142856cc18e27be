"""What a parent gives on a text, kept for the descendants that follow: it runs once for all of them.

It is kept in memory, and on disk where it outgrows a part of `Checkpoint.memory`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from sw_audit.checkpoint.matrices import take_states
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.engine import LayerwiseRunner
from sw_audit.measure.states import KeptState, States, StateStore

MOST_BYTES = 1 << 30
"""So much is kept at most. What would take more is run again for each descendant."""


@dataclass
class _Pass:
    """What entered the first layer, [batch], what left each, by layer and batch, and logits in order."""

    embedded: States
    leaving: dict[tuple[int, int], KeptState] = field(default_factory=dict)
    logits: list[KeptState] = field(default_factory=list)


class ParentPasses:
    """The passes of one parent, each known by its token ids."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._kept: dict[str, _Pass] = {}
        self._room = most_bytes

    def prepare(
        self,
        parent: Checkpoint,
        batches: Sequence[Tensor],
        store: StateStore,
        pieces: Sequence[Sequence[Tensor]],
    ) -> LayerwiseRunner:
        """Return the parent ready to be run, or recalled, on batches of token ids, int64 [sequences, tokens].

        `pieces` are the places whose logits are read, int64, [batch][piece].
        """
        digest = hashlib.sha256(str([[*map(len, cut)] for cut in pieces]).encode())
        for token_ids in batches:
            digest.update(f"{tuple(token_ids.shape)}".encode() + token_ids.cpu().numpy().tobytes())
        if (known := self._kept.get(digest.hexdigest())) is not None:
            return _RecallingRunner(parent, known)
        size = sum(map(partial(_measure_pass, parent), batches))
        if size > self._room:
            return LayerwiseRunner(parent, batches, store)

        def keep(whole: _Pass) -> None:
            self._kept[digest.hexdigest()] = whole
            self._room -= size

        return _RecordingRunner(parent, batches, store, keep)


class _RecordingRunner(LayerwiseRunner):
    """Runs the model, and hands over what it gave when all of it was read."""

    def __init__(
        self, parent: Checkpoint, batches: Sequence[Tensor], store: StateStore, keep: Callable[[_Pass], None]
    ) -> None:
        super().__init__(parent, batches, store)
        # It outlives the states of this run.
        self._store = StateStore.of(parent, share=8)
        self._pass, self._keep = _Pass(States(self._store)), keep
        for states in self.embedded:
            self._pass.embedded.append(states.clone())
        self.calls = [
            [partial(self._record_states, (depth, batch), call) for batch, call in enumerate(calls)]
            for depth, calls in enumerate(self.calls)
        ]

    def run_head(self, token_ids: Tensor, hidden: Tensor, places: Tensor) -> Tensor:
        logits = super().run_head(token_ids, hidden, places)
        self._pass.logits.append(self._store.keep(logits))
        return logits

    def finish(self) -> None:
        self._keep(self._pass)

    def _record_states(self, place: tuple[int, int], call: Callable[..., Any], *given: Any) -> Tensor:
        states = take_states(call(*given))
        # A copy, for the next layer of some families adds into it.
        self._pass.leaving[place] = self._store.keep(states.clone())
        return states


class _RecallingRunner(LayerwiseRunner):
    """Gives what the model gave, in the same order; the model is not run."""

    def __init__(self, parent: Checkpoint, known: _Pass) -> None:
        self.checkpoint = parent
        self.layers = tuple(replace(layer, bring_in=None) for layer in parent.layers)
        self.embedded = known.embedded.copy()
        self.calls = [
            [partial(self._recall_states, known.leaving[depth, batch]) for batch in range(len(known.embedded))]
            for depth in range(len(self.layers))
        ]
        self._logits = iter(known.logits)

    def run_head(self, *_: Tensor) -> Tensor:
        return next(self._logits).load()

    @staticmethod
    def _recall_states(states: KeptState, *_: Any) -> Tensor:
        return states.load()


def _measure_pass(parent: Checkpoint, token_ids: Tensor) -> int:
    """Return how many bytes a pass over a batch takes, at most."""
    per_token = parent.identity.hidden_size * (len(parent.layers) + 1) + parent.vocabulary
    return int(token_ids.numel()) * per_token * parent.layers[0].matrices[0].tensor.element_size()
