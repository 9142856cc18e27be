"""What is remembered of one model while it is audited: arm by arm, text by text, its parent, all of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sw_audit.record.arm import Arm, QuantizeActivations, Smooth
from sw_audit.record.measurement import Measurement
from sw_audit.runner.cache import Cache, Question

ARMS_AT_ONCE = 16
"""So many arms are measured before they are kept: each further pass measures the baseline once more."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ArmCache:
    """What is remembered of one model; without a cache nothing is.

    Attributes:
        cache: Where answers lie.
        model: What all figures of the model rest on: its files, device, program, packages.
        text: What its figures on the text rest on besides their protocol: stop words, items, calibration text.
        parent: What is found out about its parent alone rests on; empty without one.
        whole: What everything rests on that is found out about the model.
    """

    cache: Cache | None = None
    model: Question = field(default_factory=dict)
    text: Question = field(default_factory=dict)
    parent: Question = field(default_factory=dict)
    whole: Question = field(default_factory=dict)

    def recall(
        self, kind: Literal["parent", "text"], form: Any, make: Callable[[], _T], stage: str | int = 0
    ) -> _T:
        """Find one part of the evidence out, unless it is remembered.

        Args:
            kind: `parent` for what rests on the parent alone, and serves all of its descendants.
            form: Of which type it is; see `Cache.find`.
            make: Finds it out.
            stage: Which of several parts of that kind.
        """
        if self.cache is None:
            return make()
        question = {"stage": stage, **(self.parent if kind == "parent" else self.whole)}
        known: _T | None = self.cache.find(kind, question, form)
        if known is None:
            known = make()
            self.cache.keep(kind, question, known, form)
        return known

    def recall_arms(
        self,
        arms: Sequence[Arm],
        measure: Callable[[Sequence[Arm]], Sequence[Measurement]],
        *,
        model_id: str,
        protocol: str,
        answering: Collection[str],
    ) -> tuple[Measurement, ...]:
        """Measure the arms that are not remembered, some at a time, and remember them.

        Args:
            arms: The conditions, the baseline first.
            measure: Measures some of them, the baseline first.
            model_id: What the model is called in this audit.
            protocol: Signature of the protocol.
            answering: Names of the arms in which multiple-choice items are answered.

        Returns:
            One measurement per arm, in order.
        """
        if self.cache is None:
            return tuple(measure(arms))
        questions = [self._ask(arm, protocol, arm.name in answering) for arm in arms]
        known = [self.cache.find("arm", asked, Measurement) for asked in questions]
        missing = [place for place, answer in enumerate(known) if answer is None]
        others = [place for place in missing if place]
        for begin in range(0, len(others) or len(missing), ARMS_AT_ONCE):
            places = [0, *others[begin : begin + ARMS_AT_ONCE]]
            for place, answer in zip(places, measure([arms[place] for place in places]), strict=True):
                if known[place] is None:
                    known[place] = answer
                    self.cache.keep("arm", questions[place], answer)
        return tuple(answer.model_copy(update={"model": model_id}) for answer in known if answer is not None)

    def _ask(self, arm: Arm, protocol: str, answers: bool) -> Question:
        learns = any(isinstance(act, QuantizeActivations | Smooth) for act in arm.acts)
        decisive = {"choices": answers, "calibration": learns}
        return {
            "model": self.model,
            "text": {key: part for key, part in self.text.items() if decisive.get(key, True)},
            "protocol": protocol,
            "arm": arm.model_dump(mode="json"),
        }


NO_CACHE = ArmCache()
"""Remembers nothing."""
