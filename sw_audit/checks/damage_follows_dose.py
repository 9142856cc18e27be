"""How the damage depends on how much of the super weights is left."""

from __future__ import annotations

import itertools

from sw_audit.checks.arms import ArmPlan, prune_super_weights, scale
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.destroyed import explain_both_destroyed
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_number
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.record.arm import BASELINE, Arm, Dose, dose
from sw_audit.record.verdict import Status, Verdict

_WIDER = 'Load the model with `dtype = "float32"`, and see whether the arms are finite then.'


class DamageFollowsDoseLimits(Limits):
    """Limits of `damage-follows-dose`.

    Attributes:
        maximum_rebound: Perplexity with more of the super weights left over perplexity with less, at most,
            where not both are destroyed. In no published curve is it above 1.
    """

    maximum_rebound: Ratio = 1.2


def _plan(plan: ArmPlan) -> list[Arm]:
    if not plan.policy.confirmation.enabled or not plan.targets.super_weights:
        return prune_super_weights(plan)
    whole = plan.targets.super_weights
    doses = [dose(factor) for factor in sorted(plan.policy.confirmation.doses)]
    scaled = [scale(purpose, whole, purpose.factor) for purpose in doses if isinstance(purpose, Dose)]
    return [*prune_super_weights(plan), *scaled]


@check(
    id="damage-follows-dose",
    order=70,
    title="The less is left of the super weights, the more the model is damaged",
    meaning="A cause has a dose: what shrinks these scalars part of the way does part of the harm.",
    quantity="perplexity with more left over perplexity with less left, worst pair",
    fails="more left means 1.2 times the perplexity of less left",
    limits=DamageFollowsDoseLimits,
    level="law",
    known="full accuracy from half the value on, a tenth of it 50.2 % of 70.1 % for Llama-7B (Yu et al."
    " 2024, figure 6)",
    side="at most",
    needs_super_weight=True,
    arms=_plan,
)
def damage_follows_dose(context: CheckContext) -> Verdict:
    """Rule of `damage-follows-dose`: between zeroed and whole, more left of the set must not mean more harm.

    Each pair of neighbouring factors from 0 to 1 is compared; the worst one decides. Factors above 1 are
    measured and reported only, for the published curves are flat there (Yu et al. 2024, figure 6). Two destroyed
    doses are not ordered: that pair is reported and decides nothing. Where a collapsed arm is not finite
    nothing is lost with it; where only the arm with more left is not finite, the pair fails.
    """
    if not context.policy.confirmation.enabled:
        return context.skip("The policy does not scale the super weights (`[confirmation] enabled`).")
    limit, key = context.limits(DamageFollowsDoseLimits).maximum_rebound, context.key("maximum_rebound")
    baseline = context.find_measurement(BASELINE.purpose)
    if baseline is not None and baseline.loss.perplexity is None:
        words = "The perplexity of the model as it is is not finite, so no dose can be compared with it."
        return context.conclude(Status.INCONCLUSIVE, words, remedy=_WIDER)
    inside = sorted({0.0, 1.0, *(dose for dose in context.policy.confirmation.doses if dose < 1)})
    steps, unordered = {}, []
    for less, more in itertools.pairwise(inside):
        label = f"{_name(more)} over {_name(less)}"
        if (reason := explain_both_destroyed(context, dose(more), dose(less))) is not None:
            unordered.append(report_estimate(label, Estimate(EstimateStatus.MISSING, reason)))
        else:
            steps[label] = _compare_doses(context, more, less)
    # The last step ends at the model as it is: at least that one can be compared.
    held = context.hold_each(steps, limit)
    worst = context.decide(held)
    return context.judge(
        worst.estimate,
        limit,
        subject=f"Of {len(held)} steps from zeroed to whole the worst is {worst.finding.label}: ",
        more_words=f"; {len(unordered)} more between destroyed models decide nothing" if unordered else "",
        key=key,
        failed="Look at the dose curve in the report: where less is left and less harm is done, another "
        f"weight answers to the same super activation; if that is known of this model, raise `{key}`.",
        findings=[*unordered, *(one.finding for one in held)],
    )


def _compare_doses(context: CheckContext, more: float, less: float) -> Estimate:
    estimate = context.compare_perplexities(dose(more), dose(less))
    above = context.find_measurement(dose(more))
    if estimate.status is not EstimateStatus.NO_REFERENCE or above is None:
        return estimate
    words = f"with less left the perplexity is not finite, with more it is {write_number(above.loss.perplexity)}"
    return Estimate(EstimateStatus.MEASURED, words, 0.0, 0.0, 0.0)


def _name(factor: float) -> str:
    return {0.0: "zeroed", 1.0: "whole"}.get(factor) or f"{factor:g}"
