"""What putting the super activation back heals."""

from __future__ import annotations

from dataclasses import replace

from sw_audit.checks.arms import ArmPlan, prune_super_weights
from sw_audit.checks.context import CheckContext
from sw_audit.checks.destroyed import explain_both_destroyed
from sw_audit.checks.estimate import Estimate, EstimateStatus, doubt_without_reference
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.prune_collapses import prune_collapses
from sw_audit.checks.registry import Need, check
from sw_audit.record.address import group_addresses
from sw_audit.record.arm import BASELINE, PRUNED, RESTORED, Arm, RestoreActivation, Scale
from sw_audit.record.verdict import Status, Verdict


class RestoredActivationHealsLimits(Limits):
    """Limits of `restored-activation-heals`.

    Attributes:
        minimum_share: Part of the loss, in nats per token, that the super activation recovers. The paper's
            Llama-7B figures (5.67, 1211.11, 720.57) are a share of 0.10; half of that is "partly healed".
    """

    minimum_share: Share = 0.05


def _plan(plan: ArmPlan) -> list[Arm]:
    pruned = group_addresses(plan.targets.super_weights)
    if not pruned:
        return []
    acts = (Scale(addresses=pruned, factor=0.0), RestoreActivation(addresses=pruned))
    return [*prune_super_weights(plan), Arm(purpose=RESTORED, acts=acts)]


@check(
    id="restored-activation-heals",
    order=80,
    title="Putting the super activation back heals part of the damage",
    meaning="The super weights act through the super activation.",
    quantity="share of the loss recovered",
    fails="less than 5 % of the lost nats come back",
    limits=RestoredActivationHealsLimits,
    level="law",
    known="0.10 of the nats lost, 0.43 of the accuracy, for Llama-7B (Yu et al. 2024, table 1)",
    unit="share",
    side="at least",
    needs_super_weight=True,
    needs=frozenset({Need.MECHANISM}),
    arms=_plan,
)
def restored_activation_heals(context: CheckContext) -> Verdict:
    """Rule of `restored-activation-heals` (Yu et al. 2024, section 3.2, table 1, last row).

    The share is (pruned - restored) / (pruned - baseline), each in nats summed over the same windows, so
    all three arms are paired. Where pruning does no certain damage there is nothing to heal:
    INCONCLUSIVE. So too where the pruned arm is not finite, for no share can be had of an infinite loss. A
    model that is still destroyed with the activation put back is not healed, whatever share of the nats is
    back: too small a share fails, and any other decides nothing (the paper's own perplexities, x214 and x127,
    are such; what healed there is accuracy).
    """
    limit, key = context.limits(RestoredActivationHealsLimits).minimum_share, context.key("minimum_share")
    estimate = _measure_healing(context)
    status = doubt_without_reference(estimate, context.hold(estimate, limit))
    destroyed = explain_both_destroyed(context, PRUNED, RESTORED) if status is Status.PASS else None
    if destroyed is not None:
        because = f"Nothing is decided, for {destroyed}. {estimate.words}."
        remedy = "Look at accuracy, where there are items: perplexities of destroyed models are not compared."
        settled = replace(estimate, sample=None)  # more text would not
        return context.conclude(Status.INCONCLUSIVE, because, remedy=remedy, figure=settled, limit=limit)
    first = f"Look at `{prune_collapses.id}` first: without a finite damage there is nothing to heal."
    return context.judge(
        estimate,
        limit,
        status=status,
        key=key,
        failed="Look for a second path: the super weights act on this model through more than the one "
        f"super activation; if that is known, lower `{key}`.",
        remedy=first if estimate.status is EstimateStatus.NO_REFERENCE else None,
    )


def _measure_healing(context: CheckContext) -> Estimate:
    damage = context.compare_perplexities(PRUNED)
    remaining = context.compare_perplexities(RESTORED)
    for estimate in (damage, remaining):
        if estimate.status is EstimateStatus.MISSING:
            return Estimate(EstimateStatus.MISSING, f"No share was measured: {estimate.words}")
    if damage.status in (EstimateStatus.NO_REFERENCE, EstimateStatus.NOT_FINITE):
        return Estimate(EstimateStatus.NO_REFERENCE, f"The damage has no measure: {damage.words}")
    if remaining.status is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"Nothing is healed: {remaining.words}")
    # Finite losses of one protocol, as the comparisons above have established.
    pruned, restored, baseline = (context.list_nats(arm) for arm in (PRUNED, RESTORED, BASELINE.purpose))
    arms = (PRUNED.name, RESTORED.name)
    if damage.interval is not None and damage.interval[0] <= 1:
        words = f"Pruning does no certain damage ({damage.words}), so none is healed"
        return Estimate(EstimateStatus.NO_REFERENCE, words, sample=damage.sample, arms=arms)
    if sum(after - before for after, before in zip(pruned, baseline, strict=False)) <= 0:
        words = f"Pruning does no damage ({damage.words}), so none is healed"
        return Estimate(EstimateStatus.NO_REFERENCE, words, sample=damage.sample, arms=arms)
    share = context.share_loss(pruned, restored, baseline, "Of the lost nats a share of {} is recovered")
    return replace(share, arms=arms)
