"""What zeroing the largest other weights does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from sw_audit.checks.arms import ArmPlan, Draws, prune
from sw_audit.checks.context import CheckContext
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.record.arm import OTHER_OUTLIERS, Arm, OtherOutliers
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Status, Verdict

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


class OtherOutliersHarmlessLimits(Limits):
    """Limits of `other-outliers-harmless`.

    Attributes:
        maximum_ratio: Perplexity ratio; the paper measures 1.07 for 7,000 weights of Llama-7B.
        count: How many weights are zeroed; by default `fraction` of the decoder's, between 100 and 7,000.
        fraction: Part of the decoder's weights, as in the released code.
    """

    maximum_ratio: Ratio = 1.2
    count: int | None = Field(default=None, ge=1, examples=[7000])
    fraction: float = Field(default=1e-6, gt=0, lt=1)


NOT_FEEDING = OtherOutliers(feeding=False)
FEWEST_OUTLIERS, MOST_OUTLIERS = 100, 7000
"""A fraction of the weights is held between these: a small model has few weights, the paper zeroes 7,000."""


def _draw(policy: Policy, decoder_weights: int) -> Draws:
    limits = policy.checks[OtherOutliersHarmlessLimits]
    share = round(limits.fraction * decoder_weights)
    return Draws(other_outliers=limits.count or min(max(share, FEWEST_OUTLIERS), MOST_OUTLIERS))


def _plan(plan: ArmPlan) -> list[Arm]:
    others, feeding = plan.targets.other_outliers, set(plan.targets.feeding)
    rest = [address for address in others if address not in feeding]
    arms = [prune(OTHER_OUTLIERS, others)] if others else []
    return [*arms, prune(NOT_FEEDING, rest)] if feeding and rest else arms


@check(
    id="other-outliers-harmless",
    order=40,
    title="Zeroing many other large weights does little",
    meaning="Size alone does not make a weight critical.",
    quantity="perplexity ratio",
    fails="perplexity grows more than 1.2 times",
    limits=OtherOutliersHarmlessLimits,
    measured=frozenset({"count", "fraction"}),
    level="law",
    known="times 1.07 for 7,000 weights of Llama-7B (Yu et al. 2024, table 1); times 5.2 to 5.8 for 106 of "
    "SmolLM2-135M-Instruct, 1.01 without the 80 that feed its super activation (sw-audit)",
    side="at most",
    draws=_draw,
    arms=_plan,
)
def other_outliers_harmless(context: CheckContext) -> Verdict:
    """Rule of `other-outliers-harmless` (Yu et al. 2024, table 1, third row).

    Some of the largest weights may feed a super activation: write into its channel, be candidates of the
    locator, or lead into a neuron of these. The paper zeroes them too, and so they count. What zeroing the rest
    does is told beside it.
    """
    limits, key = context.limits(OtherOutliersHarmlessLimits), context.key("maximum_ratio")
    estimate, measured = context.compare_perplexities(OTHER_OUTLIERS), context.find_measurement(OTHER_OUTLIERS)
    if measured is None:
        words = f"{estimate.words[0].upper()}{estimate.words[1:]}"
    else:
        words = f"With {_count(measured):,} other large weights zeroed, {estimate.words}"
    held = context.hold_each({"all": estimate}, limits.maximum_ratio)
    failed = (
        f"Zero fewer weights (`{context.key('count')}`) to see whether a few of them matter: one may be a super "
        f"weight that was not located; or raise `{key}`."
    )
    more_words = ""
    if measured is not None and (rest := context.find_measurement(NOT_FEEDING)) is not None:
        apart = context.compare_perplexities(NOT_FEEDING)
        held += context.hold_each({"those that do not feed a super activation": apart}, limits.maximum_ratio)
        feeding = _count(measured) - _count(rest)
        more_words = (
            f"; {feeding:,} of them feed a super activation (they write into its channel, the locator looked at "
            f"them, or they lead into a neuron of these); with the other {_count(rest):,} zeroed, {apart.words}"
        )
        if held[-1].finding.status is Status.PASS:
            failed = (
                f"This is a finding and no defect: the {feeding:,} that feed the super activation do the damage, "
                "and size alone does not. `sw-audit locate` lists candidates and the scalars of earlier stages."
            )
    return context.judge(
        replace(estimate, words=words),
        limits.maximum_ratio,
        key=key,
        more_words=more_words,
        failed=failed,
        findings=[one.finding for one in held],
    )


def _count(measured: Measurement) -> int:
    return sum(1 for _ in measured.arm.addressed())
