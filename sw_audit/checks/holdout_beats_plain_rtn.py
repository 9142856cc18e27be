"""Whether keeping the super weights beats plain round-to-nearest."""

from __future__ import annotations

import math

from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_above,
    hold_at_least,
    make_finding,
    write_number,
)
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.policy.recipe import PerBlock, PerGroup, PerRow, PerRun, Recipe
from sw_audit.record.arm import Arm, Rounding
from sw_audit.record.verdict import Finding, Status, Verdict


class HoldoutBeatsPlainRtnLimits(Limits):
    """Limits of `holdout-beats-plain-rtn`.

    Attributes:
        minimum_gain: At the coarsest recipe, plain perplexity over hold-out perplexity must exceed this.
        maximum_harm: At every recipe, hold-out perplexity over plain perplexity must not exceed this.
    """

    minimum_gain: Ratio = 1.0
    maximum_harm: Ratio = 1.02


def _plan(plan: ArmPlan) -> list[Arm]:
    recipes = plan.policy.quantization.parsed() if plan.targets.super_weights else ()
    return [
        Arm(purpose=Rounding(recipe=recipe, keep=keep), acts=(plan.quantize(recipe, keep=keep),))
        for recipe in recipes
        for keep in (False, True)
    ]


@check(
    id="holdout-beats-plain-rtn",
    order=120,
    title="Holding the super weights out beats plain round-to-nearest",
    meaning="Where a block is large, one outlier spoils the scale for everything that shares it.",
    quantity="plain perplexity over hold-out perplexity",
    fails="it does not",
    limits=HoldoutBeatsPlainRtnLimits,
    level="law",
    known="INT4 in blocks of 1024x1024: 45.4 % instead of 27.6 % for Llama-7B, nothing gained in blocks"
    " of 256x256 (Yu et al. 2024, figure 7)",
    side="at least",
    needs_super_weight=True,
    arms=_plan,
)
def holdout_beats_plain_rtn(context: CheckContext) -> Verdict:
    """Rule of `holdout-beats-plain-rtn` (Yu et al. 2024, section 4.2, figure 7).

    Every figure is plain perplexity over hold-out perplexity on the same windows. At the coarsest recipe, the
    one whose scaling groups hold the most weights, it must exceed `minimum_gain`. At every other recipe it
    must be at least 1 / `maximum_harm`; an interval that straddles that is INCONCLUSIVE, for a guard
    that passes whatever is noisy guards nothing. A plain arm that is not finite while the hold-out is
    finite is beaten.
    """
    limits = context.limits(HoldoutBeatsPlainRtnLimits)
    recipes = context.policy.quantization.parsed()
    if not recipes:
        return context.skip("The policy measures no recipe (`[quantization] recipes` is empty).")
    harmless = 1 / limits.maximum_harm
    coarsest = max(recipes, key=lambda recipe: _count_shared(recipe, context.result.model.hidden_size))
    estimates = {recipe: _compare_holdout(context, recipe) for recipe in recipes}
    gain = _find_gain(coarsest, estimates[coarsest], max(limits.minimum_gain, harmless))
    harms = {
        recipe: _find_harm(recipe, estimate, harmless)
        for recipe, estimate in estimates.items()
        if recipe != coarsest
    }
    findings = [gain, *harms.values()]
    worst = decide_finding(findings, key=lambda finding: -(finding.observed or 0.0))
    recipe = coarsest
    if gain.status is not worst.status:
        recipe = next(recipe for recipe, finding in harms.items() if finding is worst)
    return _conclude_gain(context, recipe, estimates[recipe], harms.get(recipe, gain), findings)


def _conclude_gain(
    context: CheckContext, recipe: Recipe, estimate: Estimate, deciding: Finding, findings: list[Finding]
) -> Verdict:
    gains = deciding is findings[0]
    key = context.key("minimum_gain" if gains else "maximum_harm")
    return context.conclude(
        deciding.status,
        f"{deciding.label}, plain over hold-out: {estimate.words}; {'more than' if gains else 'at least'} "
        f"{write_number(deciding.limit)} is wanted.",
        remedy=context.advise(
            deciding.status,
            EstimateStatus.NOT_FINITE if estimate.status is EstimateStatus.NO_REFERENCE else estimate.status,
            failed=f"Do not pay for holding these scalars out at {recipe}: it gains nothing there or does harm; "
            f"try coarser `[quantization] recipes`, or change `{key}`.",
            key=key,
        ),
        figure=estimate,
        limit=deciding.limit,
        findings=findings,
    )


def _find_gain(recipe: Recipe, estimate: Estimate, limit: float) -> Finding:
    status = Status.PASS if _is_beaten(estimate) else hold_above(estimate, limit)
    return make_finding(f"gain at {recipe}", estimate, status, limit)


def _find_harm(recipe: Recipe, estimate: Estimate, limit: float) -> Finding:
    status = Status.PASS if _is_beaten(estimate) else hold_at_least(estimate, limit)
    return make_finding(f"no harm at {recipe}", estimate, status, limit)


def _compare_holdout(context: CheckContext, recipe: Recipe) -> Estimate:
    return context.compare_perplexities(
        Rounding(recipe=recipe, keep=False), against=Rounding(recipe=recipe, keep=True)
    )


def _is_beaten(estimate: Estimate) -> bool:
    """Whether only the plain arm is not finite."""
    return estimate.status is EstimateStatus.NOT_FINITE


def _count_shared(recipe: Recipe, hidden_size: int) -> float:
    """How many weights share one scale; a row is taken to be as long as the residual stream is wide."""
    match recipe.granularity:
        case PerBlock(rows=rows, columns=columns):
            return rows * columns
        case PerRun(size=size) | PerGroup(size=size):
            return size
        case PerRow():
            return hidden_size
        case _:
            return math.inf
