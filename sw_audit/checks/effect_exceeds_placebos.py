"""How the effect of the super weights ranks among those of matched controls."""

from __future__ import annotations

import math
from dataclasses import replace

from sw_audit.checks.arms import ArmPlan, prune_super_weights
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.destroyed import explain_destroyed
from sw_audit.checks.estimate import Estimate, EstimateStatus, doubt_without_reference, write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.placebo_harmless import draw_placebos, list_placebos, placebo_harmless, plan_placebos
from sw_audit.checks.registry import check
from sw_audit.record.address import list_addresses
from sw_audit.record.arm import BASELINE, FLIPPED, PRUNED, Arm, Flipped, Purpose, Subset
from sw_audit.record.verdict import Finding, Verdict

_RANKED: dict[Purpose, str] = {PRUNED: "zeroing the super weights", FLIPPED: "flipping their sign"}


class EffectExceedsPlacebosLimits(Limits):
    """Limits of `effect-exceeds-placebos`.

    Attributes:
        maximum_p: Largest p-value of the rank among the placebos. With n different placebos it cannot be
            below 1 / (n + 1): twelve allow 0.077, and twenty, five draws of each kind, 0.048.
    """

    maximum_p: Share = 0.1


def _plan(plan: ArmPlan) -> list[Arm]:
    return [*prune_super_weights(plan), *plan_placebos(plan)]


@check(
    id="effect-exceeds-placebos",
    order=60,
    title="Zeroing the super weights does more harm than any matched control",
    meaning="Had these scalars been drawn like the controls, so large an effect would be this rare.",
    quantity="p-value of the rank among the controls",
    fails="its rank among the controls has p > 0.1",
    limits=EffectExceedsPlacebosLimits,
    level="law",
    known="the paper draws no controls; its 7,000 other outliers do less than the one super weight (table 1)",
    unit="p-value",
    side="at most",
    needs_super_weight=True,
    draws=draw_placebos,
    arms=_plan,
)
def effect_exceeds_placebos(context: CheckContext) -> Verdict:
    """Rule of `effect-exceeds-placebos`: an exact one-sided randomization test.

    The p-value is (1 + placebos whose perplexity is at least that of the pruned arm) / (1 + placebos): had
    the set been drawn as its placebos are, it would be so high up as rarely as that (Phipson and Smyth 2010).
    Placebos that hold the same scalars count once. A perplexity that is not finite is above all others, and
    ties with the next that is not. So few placebos that no rank could pass decide nothing: INCONCLUSIVE.

    Where zeroing destroys the model, a placebo that destroys it too is neither above nor below: it counts as
    above, and if the rank passes only with all such ones below, nothing is decided.

    Where parts of the set and its flipped sign were measured, their rank is reported. They stand among the same
    placebos, which hold as many scalars as the whole set: a part's p-value is rather too high than too low.
    """
    limit, key = context.limits(EffectExceedsPlacebosLimits).maximum_p, context.key("maximum_p")
    draws = f"raise `[checks.{placebo_harmless.id}] draws`"
    estimate, counts = _rank_effect(context, PRUNED)
    more_draws = f"Draw more controls ({draws}), or change `{key}`."
    return context.judge(
        estimate,
        limit,
        status=doubt_without_reference(estimate, context.hold(estimate, limit)),
        wanted="at most {} is wanted",
        key=key,
        failed="Do not lay the damage to these scalars: weights drawn from their row, column or size do as "
        f"much; locate again with another prompt, or {draws} to see whether it was chance.",
        remedy=more_draws if estimate.status is EstimateStatus.TOO_FEW else None,
        # A count is exact: the verdict shows no interval.
        figure=replace(estimate, low=None, high=None, arm=PRUNED.name),
        findings=_rank_parts(context),
        counts=counts,
    )


def _rank_parts(context: CheckContext) -> tuple[Finding, ...]:
    parts = [measurement.arm.purpose for measurement in context.result.measurements]
    ranks = {part: _rank_effect(context, part) for part in parts if isinstance(part, Subset | Flipped)}
    return tuple(
        report_estimate(part.name, replace(estimate, low=None, high=None, arm=part.name))
        for part, (estimate, _) in ranks.items()
    )


def _rank_effect(context: CheckContext, arm: Purpose) -> tuple[Estimate, dict[str, int]]:
    """Return the p-value of an arm, and how many controls there are and do as much harm."""
    placebos = list_placebos(context.policy)
    measured = {purpose: context.find_measurement(purpose) for purpose in (BASELINE.purpose, arm, *placebos)}
    for purpose, measurement in measured.items():
        if measurement is None:
            words = f"No rank was taken: the arm {purpose.name!r} was not measured under this protocol"
            return Estimate(EstimateStatus.MISSING, words), {}
    known = {purpose: measurement for purpose, measurement in measured.items() if measurement is not None}
    effects = {
        purpose: math.inf if (nats := measurement.loss.mean_nats) is None else nats
        for purpose, measurement in known.items()
    }
    if math.isinf(effects[BASELINE.purpose]):
        words = "No rank was taken: the perplexity of the model as it is is not finite"
        return Estimate(EstimateStatus.NO_REFERENCE, words), {}
    distinct = {
        frozenset(list_addresses(known[placebo].arm.addressed())): effects[placebo] for placebo in placebos
    }
    destroyed = set()
    if explain_destroyed(context, arm) is not None:
        destroyed = {
            frozenset(list_addresses(known[placebo].arm.addressed()))
            for placebo in placebos
            if explain_destroyed(context, placebo) is not None
        }
    above = sum(effect >= effects[arm] for drawn, effect in distinct.items() if drawn not in destroyed)
    tied = len(destroyed)
    least, lowest, p = ((1 + count) / (1 + len(distinct)) for count in (0, above, above + tied))
    counts = {"controls": len(distinct), "at least as harmful": above + tied}
    if tied:
        counts["destroyed as well"] = tied
    words = (
        f"Of {len(distinct)} different matched controls {above + tied or 'none'} "
        f"{'do' if above + tied > 1 else 'does'} as much harm as "
        f"{_RANKED.get(arm, f'the arm {arm.name!r}')}: p = {write_number(p)}, where so many controls "
        f"allow {write_number(least)} at best"
    )
    if tied:
        words += (
            f"; {tied} of them {'destroy' if tied > 1 else 'destroys'} the model as well, and so cannot be ranked"
        )
    if least > context.limits(EffectExceedsPlacebosLimits).maximum_p:
        return Estimate(EstimateStatus.TOO_FEW, words, p), counts
    return Estimate(EstimateStatus.MEASURED, words, p, lowest, p), counts
