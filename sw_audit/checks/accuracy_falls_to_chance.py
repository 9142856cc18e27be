"""What zeroing the super weights does to multiple choice."""

from __future__ import annotations

from dataclasses import replace

from sw_audit.checks.arms import prune_super_weights
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    write_interval,
    write_number,
)
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.checks.statistics import bound_lost_share, bound_proportion
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.measurement import ChoiceAccuracy
from sw_audit.record.verdict import Sample, Status, Verdict


class AccuracyFallsToChanceLimits(Limits):
    """Limits of `accuracy-falls-to-chance`.

    Attributes:
        minimum_lost: Part of the accuracy above guessing that is lost. In the paper's table 1 (Llama-7B) it is
            0.65 on PIQA, 0.69 on Winogrande, 0.71 on ARC-easy, and more on the others; a little is left for
            the interval.
    """

    minimum_lost: Share = 0.6


@check(
    id="accuracy-falls-to-chance",
    order=100,
    title="Pruned, the model falls towards guessing at multiple choice",
    meaning="The loss is of ability, not only of fluency.",
    quantity="share of the accuracy above guessing that is lost",
    fails="less than 60 % of its accuracy above guessing is lost",
    limits=AccuracyFallsToChanceLimits,
    level="law",
    known="70.1 % to 35.1 % on average for Llama-7B (Yu et al. 2024, table 1)",
    unit="share",
    side="at least",
    needs_super_weight=True,
    needs=frozenset({Need.CHOICES}),
    arms=prune_super_weights,
)
def accuracy_falls_to_chance(context: CheckContext) -> Verdict:
    """Rule of `accuracy-falls-to-chance` (Yu et al. 2024, table 1).

    The share (baseline - pruned) / (baseline - chance) of the accuracy above guessing is lost, item by
    item. The unpruned model must be better than guessing, by the lower end of its own interval, or there is no
    ability to lose: INCONCLUSIVE. Skipped where no items were read.
    """
    limit, key = context.limits(AccuracyFallsToChanceLimits).minimum_lost, context.key("minimum_lost")
    baseline, pruned = context.find_measurement(BASELINE.purpose), context.find_measurement(PRUNED)
    if baseline is None or pruned is None:
        name = BASELINE.name if baseline is None else PRUNED.name
        words = f"The arm {name!r} was not measured under this protocol."
        remedy = context.advise(Status.INCONCLUSIVE, EstimateStatus.MISSING, failed="", key=key)
        return context.conclude(Status.INCONCLUSIVE, words, remedy=remedy)
    if baseline.choices is None or pruned.choices is None or not pruned.choices.correct:
        return context.skip("No multiple-choice items were read (`[corpus] choices`).")
    estimate = replace(_measure_lost_ability(context, baseline.choices, pruned.choices), arms=(PRUNED.name,))
    answerable = "Give items that this model can answer, or more of them, in `[corpus] choices`."
    return context.judge(
        estimate,
        limit,
        status=doubt_without_reference(estimate, context.hold(estimate, limit)),
        key=key,
        failed="Do not call this a loss of ability: the pruned model still answers; look for further super "
        f"weights with `sw-audit locate`, or lower `{key}`.",
        remedy=answerable if estimate.status is EstimateStatus.NO_REFERENCE else None,
        more="give more items in `[corpus] choices`",
    )


def _measure_lost_ability(context: CheckContext, baseline: ChoiceAccuracy, pruned: ChoiceAccuracy) -> Estimate:
    chance, count = pruned.chance, len(pruned.correct)
    words = (
        f"Accuracy goes from {write_number(baseline.accuracy)} to {write_number(pruned.accuracy)}, "
        f"guessing gives {write_number(chance)}"
    )
    sample = Sample(count=count, unit="items")
    if len(baseline.correct) != count:
        return Estimate(EstimateStatus.MISSING, "The two arms did not answer the same items")
    share, low, high = bound_lost_share(baseline.correct, pruned.correct, chance, context.item_confidence)
    if (few := context.count_short(count, "items")) is not None:
        observed = share if baseline.accuracy > chance else None
        return Estimate(EstimateStatus.TOO_FEW, f"{words}; {few}", observed, sample=sample)
    if bound_proportion(sum(baseline.correct), count, context.item_confidence)[0] <= chance:
        words = f"{words}: the unpruned model is not certain to be better than guessing"
        return Estimate(EstimateStatus.NO_REFERENCE, words, sample=sample)
    estimate = Estimate(EstimateStatus.MEASURED, words, share, low, high, sample=sample)
    span = write_interval(estimate, context.policy.confidence)
    return replace(estimate, words=f"{words}: of what is above guessing a share of {span} is lost")
