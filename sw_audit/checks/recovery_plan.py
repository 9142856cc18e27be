"""What to measure next where a descendant's quality fails: which modules of the parent to put back one by one."""

from __future__ import annotations

from sw_audit.checks.perplexity_ratio import perplexity_ratio
from sw_audit.checks.super_weight_retained import SuperWeightRetainedLimits
from sw_audit.fact import Fact
from sw_audit.policy.policy import Policy
from sw_audit.record.address import WeightAddress
from sw_audit.record.descent import RetainedWeight
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status


class RecoveryPlan(Fact):
    """Modules of the parent to put back into a descendant, one by one.

    Attributes:
        modules: How many.
        lost: The parent's super weights that the descendant has not kept. The modules that hold these come first,
            then those whose weights differ most.
    """

    modules: int
    lost: tuple[WeightAddress, ...]


def plan_recovery(result: ModelResult, policy: Policy) -> RecoveryPlan | None:
    """Return what to put back into a judged model; `None` where its quality does not ask for it.

    Args:
        result: The model, its verdicts included.
        policy: How many modules, and how far a super weight may be from the parent's.
    """
    descent = result.descent
    asked = any(
        verdict.check == perplexity_ratio.id and verdict.status in (Status.FAIL, Status.INCONCLUSIVE)
        for verdict in result.verdicts
    )
    if descent is None or not asked or not policy.descent.modules:
        return None
    limit = policy.checks[SuperWeightRetainedLimits].maximum_error
    lost = tuple(weight.address for weight in descent.super_weights if _is_lost(weight, limit))
    return RecoveryPlan(modules=policy.descent.modules, lost=lost)


def _is_lost(weight: RetainedWeight, limit: float) -> bool:
    error = weight.relative_error
    return error is None or not abs(error) <= limit
