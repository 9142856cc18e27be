"""Parent and descendant on each text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, make_finding
from sw_audit.record.arm import DESCENDANT, PARENT, Purpose
from sw_audit.record.descent import ComparedText
from sw_audit.record.location import Location
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Finding, Status

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
        found = self.text.measured(arm)
        return found if found and found.protocol == self.text.protocol.signature else None

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
        figure = context.compare_losses(str(arm), ours.loss, PARENT.name, theirs.loss)
        return replace(figure, arm=str(arm), text=self.label)


def say_none(location: Location, what: str) -> str:
    """Say that the parent has no super weight or super activation."""
    return f"The parent has no super {what} (outcome {location.outcome}): {location.because}."


def pair_up(context: CheckContext) -> list[Pair]:
    """Return both models on each text, the policy's own text first."""
    return [Pair(label, text) for label, text in context.descent.label_texts().items()]


def hold_texts(
    figures: Mapping[str, Estimate], hold: Callable[[Estimate, float], Status], limit: float
) -> list[Finding]:
    """Hold each text's figure against a limit.

    By a parent that is not finite nothing can be told: INCONCLUSIVE.
    """
    return [
        make_finding(label, figure, settle_basis(figure, hold(figure, limit)), limit)
        for label, figure in figures.items()
    ]


def advise_pair(context: CheckContext, status: Status, basis: EstimateStatus, *, failed: str, key: str) -> str:
    """Return what to do about a verdict on parent and descendant; see `CheckContext.advise`."""
    if basis is EstimateStatus.NO_BASIS:
        return _PARENT_FIRST
    return context.advise(status, basis, failed=failed, key=key)


def settle_basis(figure: Estimate, status: Status) -> Status:
    """Make a verdict on a parent that is not finite itself INCONCLUSIVE: nothing can be told by it."""
    return Status.INCONCLUSIVE if figure.basis is EstimateStatus.NO_BASIS else status
