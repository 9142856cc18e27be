"""What zeroing the super weights does."""

from __future__ import annotations

from sw_audit.checks.arms import ArmPlan, prune, prune_super_weights, scale
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.estimate import EstimateStatus, doubt_without_reference
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import Need, check
from sw_audit.record.arm import FLIPPED, PRUNED, Arm, Dose, Flipped, Subset, list_subsets
from sw_audit.record.verdict import Finding, Status, Verdict


class PruneCollapsesLimits(Limits):
    """Limits of `prune-collapses`.

    Attributes:
        minimum_ratio: Perplexity with the super weights zeroed over perplexity without. Joint zeroing gives
            x214 and more for each published model; a tenth of the paper's effect is a collapse all the same.
    """

    minimum_ratio: Ratio = 10.0


def _plan(plan: ArmPlan) -> list[Arm]:
    """Zero the set; to take its effect apart, zero each part once, whatever its names, and flip the sign."""
    super_weights = plan.targets.super_weights
    arms = {frozenset(super_weights): arm for arm in prune_super_weights(plan)}
    if arms and plan.policy.confirmation.enabled:
        for subset, members in list_subsets(super_weights).items():
            arms.setdefault(frozenset(members), prune(subset, members))
        return [*arms.values(), scale(FLIPPED, super_weights, -1.0)]
    return [*arms.values()]


@check(
    id="prune-collapses",
    order=30,
    title="Zeroing the super weights destroys the model",
    meaning="These few scalars carry the model: a compressor or fine-tune that loses them loses everything.",
    quantity="perplexity ratio",
    fails="perplexity grows less than 10 times",
    limits=PruneCollapsesLimits,
    level="law",
    known="5.67 to 1,211 for Llama-7B, times 214 (Yu et al. 2024, table 1)",
    side="at least",
    needs_super_weight=True,
    needs=frozenset({Need.MECHANISM}),
    arms=_plan,
)
def prune_collapses(context: CheckContext) -> Verdict:
    """Rule of `prune-collapses` (Yu et al. 2024, section 3.1, table 1).

    A perplexity that is not finite is a collapse: PASS, without a figure. If the model is not finite even
    before pruning there is nothing that could collapse: INCONCLUSIVE. What parts of the set do, its flipped
    sign and its doses is reported and decides nothing.
    """
    limit, key = context.limits(PruneCollapsesLimits).minimum_ratio, context.key("minimum_ratio")
    estimate = context.compare_perplexities(PRUNED)
    if estimate.status is EstimateStatus.NOT_FINITE:
        because = f"With the super weights zeroed the model is broken beyond measure: {estimate.words}."
        return context.conclude(
            Status.PASS, because, figure=estimate, limit=limit, findings=_report_parts(context)
        )
    return context.judge(
        estimate,
        limit,
        status=doubt_without_reference(estimate, context.hold(estimate, limit)),
        subject="With the super weights zeroed, ",
        key=key,
        failed="Look with `sw-audit locate` for further scalars on the same row or column, which may "
        f"stand in for these; if so mild an effect is known for this model, lower `{key}`.",
        findings=_report_parts(context),
    )


def _report_parts(context: CheckContext) -> tuple[Finding, ...]:
    """Report the perplexity ratio of every part of the set, of its flipped sign and of every dose measured."""
    parts = [one.arm.purpose for one in context.result.measurements]
    return tuple(
        report_estimate(part.name, context.compare_perplexities(part))
        for part in parts
        if isinstance(part, Subset | Flipped | Dose)
    )
