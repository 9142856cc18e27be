"""What putting parts of the parent back into a descendant recovers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_number
from sw_audit.checks.pairs import Pair
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_WEIGHTS, Purpose, RestoredModule, RestoredWeights

# Parts of the loss that are certain to be recovered: above the one a part heals, above the other it helps.
_HEALS, _HELPS = 0.5, 0.1


@dataclass(frozen=True)
class Recovery:
    """What putting one part of the parent back into the descendant does.

    Attributes:
        arm: Which arm.
        subject: What is put back, in words.
        modules: The modules that it is in.
        estimate: The share of the lost nats that it recovers; without a number where the descendant is not finite.
        heals: Whether it is certain to recover half of the loss or more, or makes an infinite loss finite.
        helps: Whether it is certain to recover a tenth.
    """

    arm: Purpose
    subject: str
    modules: tuple[str, ...]
    estimate: Estimate
    heals: bool
    helps: bool


def measure_recoveries(context: CheckContext, pair: Pair) -> list[Recovery]:
    """Return what each counterfactual on a text recovers: the super weights first, then modules, the best first.

    The share is (descendant - restored) / (descendant - parent), each in nats summed over the same windows, so the
    bootstrap pairs all three arms. Where the descendant does no certain harm there is no loss to recover.
    """
    harm = pair.compare(context)
    if harm.status in (EstimateStatus.MISSING, EstimateStatus.NO_REFERENCE):
        return []
    if harm.status is EstimateStatus.MEASURED and (harm.low is None or harm.low <= 1):
        return []
    recoveries = [
        recovery
        for measurement in pair.text.measurements
        for recovery in [_measure_recovery(context, pair, harm, measurement.arm.purpose)]
        if recovery is not None
    ]
    return sorted(recoveries, key=lambda one: (one.arm != RESTORED_WEIGHTS, -(one.estimate.observed or 0.0)))


def name_modules(addresses: Sequence[WeightAddress]) -> tuple[str, ...]:
    """Return the modules that hold some scalars, each once: the parameter's name without its last part."""
    return tuple(dict.fromkeys(address.parameter.rpartition(".")[0] for address in addresses))


def _measure_recovery(context: CheckContext, pair: Pair, harm: Estimate, arm: Purpose) -> Recovery | None:
    match arm:
        case RestoredWeights():
            addresses = context.descent.parent_location.addresses
            modules = name_modules(addresses)
            many = f"{len(addresses)} super weights" if len(addresses) > 1 else "super weight"
            subject = f"the parent's {many}"
        case RestoredModule(module=module):
            modules, subject = (module,), f"the parent's {module}"
        case _:
            return None
    remaining = pair.compare(context, arm)
    if remaining.status is EstimateStatus.MISSING:
        return None
    estimate = _measure_share(context, pair, harm, remaining, arm)
    low = estimate.interval[0] if estimate.interval else None
    finite_again = harm.status is EstimateStatus.NOT_FINITE and remaining.status is not EstimateStatus.NOT_FINITE
    return Recovery(
        arm=arm,
        subject=subject,
        modules=modules,
        estimate=replace(estimate, arm=arm.name, text=pair.label),
        heals=finite_again or (low is not None and low >= _HEALS),
        helps=finite_again or (low is not None and low >= _HELPS),
    )


def _measure_share(
    context: CheckContext, pair: Pair, harm: Estimate, remaining: Estimate, arm: Purpose
) -> Estimate:
    if remaining.status is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"nothing is recovered: {remaining.words}")
    if harm.status is EstimateStatus.NOT_FINITE:
        words = f"the perplexity is finite again, {write_number(remaining.observed)} times the parent's"
        return Estimate(EstimateStatus.TOO_FEW, words)
    before, after, base = (pair.list_nats(purpose) for purpose in (DESCENDANT, arm, PARENT))
    return context.share_loss(before, after, base, "a share of {} of the lost nats is recovered")
