"""Parent and descendant on each text: the two measurements, and what putting a part back recovers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sw_audit.checks.bootstrap import bound_ratio
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, make_finding, write_interval, write_number
from sw_audit.record.address import WeightAddress
from sw_audit.record.descent import DESCENDANT, PARENT, RESTORED_WEIGHTS, ComparedText, name_restored_module
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Finding, Status

_MODULE = name_restored_module("")
# Parts of the loss that are certain to be recovered: above the one a part heals, above the other it helps.
_HEALS, _HELPS = 0.5, 0.1
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

    def measured(self, arm: str) -> Measurement | None:
        """Return an arm's measurement; one made under another protocol does not count."""
        found = self.text.measured(arm)
        return found if found and found.protocol == self.text.protocol.signature else None

    def compare(self, case: CheckContext, arm: str = DESCENDANT) -> Estimate:
        """Return the perplexity of an arm over the parent's, with its interval.

        An arm that is not finite is its own fault, whatever the parent is.
        """
        ours, theirs = self.measured(arm), self.measured(PARENT)
        if ours is None or theirs is None:
            missing = PARENT if theirs is None else arm
            return Estimate(EstimateStatus.MISSING, f"the arm {missing!r} was not measured under this protocol")
        if ours.loss.tokens == theirs.loss.tokens and ours.loss.perplexity is None:
            return Estimate(EstimateStatus.NOT_FINITE, f"the perplexity of the arm {arm!r} is not finite")
        return case.compare_losses(arm, ours.loss, PARENT, theirs.loss)


@dataclass(frozen=True)
class Recovery:
    """What putting one part of the parent back into the descendant does.

    Attributes:
        arm: Name of the arm.
        subject: What is put back, in words.
        modules: The modules that it is in.
        figure: The share of the lost nats that it recovers; without a number where the descendant is not finite.
        heals: Whether it is certain to recover half of the loss or more, or makes an infinite loss finite.
        helps: Whether it is certain to recover a tenth.
    """

    arm: str
    subject: str
    modules: tuple[str, ...]
    figure: Estimate
    heals: bool
    helps: bool


def pair_up(case: CheckContext) -> list[Pair]:
    """Return both models on each text, the policy's own text first."""
    texts, names = case.descent.texts, Counter[str]()
    pairs = []
    for text in texts:
        name = text.protocol.corpus.name
        names[name] += 1
        pairs.append(Pair(name if names[name] == 1 else f"{name} ({names[name]})", text))
    return pairs


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


def advise_pair(case: CheckContext, status: Status, footing: EstimateStatus, *, failed: str, key: str) -> str:
    """Return what to do about a verdict on parent and descendant; see `CheckContext.advise`."""
    if footing is EstimateStatus.NO_BASIS:
        return _PARENT_FIRST
    return case.advise(status, footing, failed=failed, key=key)


def settle_basis(figure: Estimate, status: Status) -> Status:
    """Make a verdict on a parent that is not finite itself INCONCLUSIVE: nothing can be told by it."""
    return Status.INCONCLUSIVE if figure.footing is EstimateStatus.NO_BASIS else status


def measure_recoveries(case: CheckContext, pair: Pair) -> list[Recovery]:
    """Return what each counterfactual on a text recovers: the super weights first, then modules, the best first.

    The share is (descendant - restored) / (descendant - parent), each in nats summed over the same windows, so the
    bootstrap pairs all three arms. Where the descendant does no certain harm there is no loss to recover.
    """
    harm = pair.compare(case)
    if harm.footing in (EstimateStatus.MISSING, EstimateStatus.NO_BASIS):
        return []
    if harm.footing is EstimateStatus.MEASURED and (harm.low is None or harm.low <= 1):
        return []
    found = [
        recovery
        for measurement in pair.text.measurements
        for recovery in [_measure_recovery(case, pair, harm, measurement.arm.name)]
        if recovery is not None
    ]
    return sorted(found, key=lambda one: (one.arm != RESTORED_WEIGHTS, -(one.figure.observed or 0.0)))


def name_modules(addresses: Sequence[WeightAddress]) -> tuple[str, ...]:
    """Return the modules that hold some scalars, each once: the parameter's name without its last part."""
    return tuple(dict.fromkeys(address.parameter.rpartition(".")[0] for address in addresses))


def _measure_recovery(case: CheckContext, pair: Pair, harm: Estimate, arm: str) -> Recovery | None:
    if arm == RESTORED_WEIGHTS:
        addresses = case.descent.parent_location.addresses
        modules = name_modules(addresses)
        subject = (
            f"the parent's {len(addresses)} super weights" if len(addresses) > 1 else "the parent's super weight"
        )
    elif arm.startswith(_MODULE):
        modules = (arm.removeprefix(_MODULE),)
        subject = f"the parent's {modules[0]}"
    else:
        return None
    remaining = pair.compare(case, arm)
    if remaining.footing is EstimateStatus.MISSING:
        return None
    figure = _measure_share(case, pair, harm, remaining, arm)
    low = figure.interval[0] if figure.interval else None
    finite_again = harm.footing is EstimateStatus.NOT_FINITE and remaining.footing is not EstimateStatus.NOT_FINITE
    return Recovery(
        arm=arm,
        subject=subject,
        modules=modules,
        figure=figure,
        heals=finite_again or (low is not None and low >= _HEALS),
        helps=finite_again or (low is not None and low >= _HELPS),
    )


def _measure_share(case: CheckContext, pair: Pair, harm: Estimate, remaining: Estimate, arm: str) -> Estimate:
    if remaining.footing is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"nothing is recovered: {remaining.words}")
    if harm.footing is EstimateStatus.NOT_FINITE:
        words = f"the perplexity is finite again, {write_number(remaining.observed)} times the parent's"
        return Estimate(EstimateStatus.TOO_FEW, words)
    before, after, base = (_list_nats(pair, one) for one in (DESCENDANT, arm, PARENT))
    saved = [one - other for one, other in zip(before, after, strict=True)]
    lost = [one - other for one, other in zip(before, base, strict=True)]
    if harm.footing is EstimateStatus.TOO_FEW:
        share = sum(saved) / sum(lost) if sum(lost) > 0 else None
        few = case.count_short(len(before), "windows")
        words = f"a share of {write_number(share)} of the lost nats is recovered; {few}"
        return Estimate(EstimateStatus.TOO_FEW, words, share)
    share, low, high = bound_ratio(saved, lost, case.bootstrap)
    span = write_interval(Estimate(EstimateStatus.MEASURED, "", share, low, high), case.policy.confidence)
    words = f"a share of {span} of the lost nats is recovered"
    return Estimate(EstimateStatus.MEASURED, words, share, low, high)


def _list_nats(pair: Pair, arm: str) -> list[float]:
    found = pair.measured(arm)
    return [] if found is None else [one for one in found.loss.nats if one is not None]
