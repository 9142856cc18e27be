"""Parent and descendant on each text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sw_audit.checks.context import CheckContext, Held
from sw_audit.checks.estimate import Estimate, EstimateStatus, doubt_without_reference
from sw_audit.record.arm import DESCENDANT, PARENT, Purpose
from sw_audit.record.descent import ComparedText
from sw_audit.record.location import Location
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Status, Verdict

_PARENT_FIRST = 'Look at the parent itself: set `dtype = "float32"` for it, and see whether it is finite then.'


@dataclass(frozen=True)
class Pair:
    """Both models on one text.

    Attributes:
        label: What the text is called; different for each text.
        text: Everything that was measured on it.
    """

    label: str
    text: ComparedText

    def measured(self, arm: Purpose | str) -> Measurement | None:
        """Return an arm's measurement; one made under another protocol does not count."""
        measured = self.text.measured(arm)
        return measured if measured and measured.protocol == self.text.protocol.signature else None

    def list_nats(self, arm: Purpose) -> list[float]:
        """Return the nats of each window of an arm whose loss is finite; none if it was not measured."""
        measured = self.measured(arm)
        return [] if measured is None else measured.loss.finite_nats

    def compare(self, context: CheckContext, arm: Purpose | str = DESCENDANT) -> Estimate:
        """Return the perplexity of an arm over the parent's, with its interval.

        An arm that is not finite is its own fault, whatever the parent is.
        """
        ours, theirs = self.measured(arm), self.measured(PARENT)
        if ours is None or theirs is None:
            missing = str(PARENT if theirs is None else arm)
            return Estimate(EstimateStatus.MISSING, f"the arm {missing!r} was not measured under this protocol")
        if ours.loss.tokens == theirs.loss.tokens and ours.loss.perplexity is None:
            words = f"the perplexity of the arm {str(arm)!r} is not finite"
            return Estimate(EstimateStatus.NOT_FINITE, words, arm=str(arm), text=self.label)
        estimate = context.compare_losses(str(arm), ours.loss, PARENT.name, theirs.loss)
        return replace(estimate, arm=str(arm), text=self.label)


def say_none(location: Location, what: str) -> str:
    """Say that the parent has no super weight or super activation."""
    return f"The parent has no super {what} (outcome {location.outcome}): {location.because}."


def pair_up(context: CheckContext) -> list[Pair]:
    """Return both models on each text, the policy's own text first."""
    return [Pair(label, text) for label, text in context.descent.label_texts().items()]


def hold_texts(context: CheckContext, estimates: Mapping[str, Estimate], limit: float) -> list[Held]:
    """Hold each text's estimate against a limit, of which the check's own side is good.

    By a parent that is not finite nothing can be told: INCONCLUSIVE.
    """
    return [
        Held(held.estimate, held.finding.model_copy(update={"status": _settle(held)}))
        for held in context.hold_each(estimates, limit)
    ]


def judge_text(
    context: CheckContext, pair: Pair, held: Held, limit: float, *, key: str, failed: str, **facts: Any
) -> Verdict:
    """Conclude from the text that decides; see `CheckContext.judge`."""
    return context.judge(
        held.estimate,
        limit,
        status=held.finding.status,
        subject=f"{held.finding.label}: ",
        key=key,
        failed=failed,
        remedy=advise_parent(held.estimate.status),
        protocol=pair.text.protocol.signature,
        **facts,
    )


def advise_parent(rests_on: EstimateStatus) -> str | None:
    """Return what to do where nothing can be told by a parent that is not finite; `None` elsewhere."""
    return _PARENT_FIRST if rests_on is EstimateStatus.NO_REFERENCE else None


def _settle(held: Held) -> Status:
    return doubt_without_reference(held.estimate, held.finding.status)
