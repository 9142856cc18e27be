"""How the effect of the super weights ranks among those of matched controls."""

from __future__ import annotations

from dataclasses import replace

from sw_audit.checks.arms import ArmPlan, prune_super_weights
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.destroyed import explain_destroyed
from sw_audit.checks.estimate import Estimate, EstimateStatus, doubt_without_reference, write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.placebo_harmless import draw_placebos, list_placebos, placebo_harmless, plan_placebos
from sw_audit.checks.registry import check
from sw_audit.record.arm import BASELINE, FLIPPED, PRUNED, Arm, Flipped, Purpose, Subset
from sw_audit.record.measurement import TokenLoss
from sw_audit.record.verdict import Finding, Sample, Verdict

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

    Whether a placebo does more or less is certain where the interval of their ratio is clear of one; all these
    intervals hold together. A placebo of which it is not certain is on either side, so p has a range.

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
    if known[BASELINE.purpose].loss.mean_nats is None:
        words = "No rank was taken: the perplexity of the model as it is is not finite"
        return Estimate(EstimateStatus.NO_REFERENCE, words), {}
    distinct = {frozenset(known[placebo].arm.addressed()): placebo for placebo in placebos}
    drawn = list(distinct.values())
    tied: list[Purpose] = []
    if explain_destroyed(context, arm) is not None:
        tied = [placebo for placebo in drawn if explain_destroyed(context, placebo) is not None]
    # Every comparison holds at once: each is as much surer as there are more of them.
    confidence = 1 - (1 - context.confidence) / len(drawn)
    ratios = {
        placebo: context.compare_perplexities(placebo, arm, confidence=confidence)
        for placebo in drawn
        if placebo not in tied
    }
    above = {placebo for placebo, ratio in ratios.items() if _does_as_much(ratio, known[placebo].loss)}
    open_ = {placebo for placebo, ratio in ratios.items() if not _is_certain(ratio)}
    count = len(above) + len(tied)
    least, lowest, p, highest = (
        (1 + number) / (1 + len(drawn))
        for number in (0, len(above - open_), count, len(above | open_) + len(tied))
    )
    counts = {"controls": len(drawn), "at least as harmful": count}
    if tied:
        counts["destroyed as well"] = len(tied)
    words = (
        f"Of {len(drawn)} different matched controls {count or 'none'} "
        f"{'do' if count > 1 else 'does'} as much harm as "
        f"{_RANKED.get(arm, f'the arm {arm.name!r}')}: p = {write_number(p)}, where so many controls "
        f"allow {write_number(least)} at best"
    )
    if tied:
        words += (
            f"; {len(tied)} of them {'destroy' if len(tied) > 1 else 'destroys'} the model as well, and so cannot "
            "be ranked"
        )
    if least > context.limits(EffectExceedsPlacebosLimits).maximum_p:
        return Estimate(EstimateStatus.TOO_FEW, words, p), counts
    if open_:
        words += f"; {len(open_)} of them cannot be told apart from it on so little text"
    arms = (arm.name, *(placebo.name for placebo in drawn if placebo in open_))
    sample = Sample(count=len(known[arm].loss.tokens)) if open_ or not tied else None
    rank = Estimate(EstimateStatus.MEASURED, words, p, lowest, highest, sample=sample, arms=arms)
    return rank, counts


def _does_as_much(ratio: Estimate, loss: TokenLoss) -> bool:
    """Whether a control, held against the arm, does at least as much; of two that are not finite too."""
    if ratio.status is EstimateStatus.NO_REFERENCE:
        return loss.perplexity is None
    return ratio.status is EstimateStatus.NOT_FINITE or (ratio.observed is not None and ratio.observed >= 1)


def _is_certain(ratio: Estimate) -> bool:
    """Whether it is certain which of the two does more; of what is not finite it is."""
    if ratio.status in (EstimateStatus.NO_REFERENCE, EstimateStatus.NOT_FINITE):
        return True
    return ratio.interval is not None and (ratio.interval[0] > 1 or ratio.interval[1] < 1)
