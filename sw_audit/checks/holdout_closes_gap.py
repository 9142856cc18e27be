"""Whether holding the super activation out does as well as SmoothQuant, where activations are quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from sw_audit.checks.activation_rounding import (
    advise_text,
    explain_skipped,
    mind_calibration,
    plan_schemes,
    report_treatments,
)
from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext, Held, report_estimate
from sw_audit.checks.destroyed import explain_both_destroyed
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    hold_at_least,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.checks.limits import Limits, Nonnegative, Share
from sw_audit.checks.registry import Need, check
from sw_audit.policy.scheme import Scheme
from sw_audit.record.arm import BASELINE, HELD_OUT, NAIVE, SEARCHED, SMOOTHED, ActivationRounding, Arm
from sw_audit.record.verdict import Finding, Status, Verdict


class HoldoutClosesGapLimits(Limits):
    """Limits of `holdout-closes-gap`.

    Attributes:
        maximum_nats: Nats per token that holding the super activation out may lose beyond SmoothQuant, on the same
            windows. 0.02 is a perplexity of 1.02 times, and a third of the widest gap between naive rounding
            and full precision in the paper (OLMo-1B, 0.06 nats; hold-out saves 0.09 to 0.84 of such gaps). On
            SmolLM2-135M the hold-out is 0.2 nats better than SmoothQuant at alpha 0.85.
        minimum_share: Where SmoothQuant does not apply: part of the nats per token lost by rounding naively that
            the hold-out saves, at least. In the paper it is 0.09 (Llama-2-7B) to 0.84 (OLMo-1B); half of the
            least.
        minimum_harm: Naive perplexity over full precision, at least, or there is no gap to have a share of. The
            paper's smallest is 1.013 (Mistral-7B).
    """

    maximum_nats: Nonnegative = 0.02
    minimum_share: Share = 0.05
    minimum_harm: float = Field(default=1.01, gt=1)


def _plan(plan: ArmPlan) -> list[Arm]:
    treatments = (NAIVE, HELD_OUT, SMOOTHED, SEARCHED) if plan.targets.super_weights else (NAIVE,)
    return plan_schemes(plan, *treatments)


@check(
    id="holdout-closes-gap",
    order=140,
    title="Holding the super activation out is competitive with SmoothQuant",
    meaning="Whether one scalar in full precision does what SmoothQuant does with every channel.",
    quantity="nats per token lost beyond SmoothQuant",
    fails="it certainly loses 0.02 nats per token more than SmoothQuant; or, where that does not apply, saves "
    "less than 0.05 of the nats that naive rounding loses",
    limits=HoldoutClosesGapLimits,
    level="law",
    known="W8A8 on Llama-7B: 0.60 of the gap is saved, by SmoothQuant 0.80; on Llama-2-7B 0.09 (Yu et al. 2024, "
    "tables 3 and 4)",
    unit="nats",
    side="at most",
    needs_super_weight=True,
    needs=frozenset({Need.ACTIVATIONS, Need.SMOOTHING}),
    arms=_plan,
)
def holdout_closes_gap(context: CheckContext) -> Verdict:
    """Rule of `holdout-closes-gap` (Yu et al. 2024, section 4.1, tables 3 and 4).

    Per scheme, the nats per token of the hold-out minus those of SmoothQuant, paired window by window; of two
    alphas the better one counts, whatever its alpha. The worst scheme decides; one whose both arms are
    destroyed does not count. A SmoothQuant that is not finite is beaten by a hold-out that is. What each
    treatment costs is reported, and where naive rounding does certain harm (`minimum_harm`), the share of its
    loss that each other one saves; where SmoothQuant does not apply, that share decides (`minimum_share`).
    """
    if (reason := explain_skipped(context)) is not None:
        return context.skip(reason)
    limits, key = context.limits(HoldoutClosesGapLimits), context.key("maximum_nats")
    setup, limit, schemes = context.result.activations, limits.maximum_nats, context.policy.activations.parsed()
    shares = {scheme: _measure_shares(context, scheme, limits.minimum_harm) for scheme in schemes}
    reported = [
        finding
        for scheme in schemes
        for finding in (
            *report_treatments(context, scheme),
            *(report_estimate(f"{arm.name}, share saved", share) for arm, share in shares[scheme].items()),
        )
    ]
    if setup is not None and setup.unsmoothable is not None:
        kept_shares = {arm.name: share for of in shares.values() for arm, share in of.items()}
        return _judge_shares(context, kept_shares, f"SmoothQuant does not apply: {setup.unsmoothable}", reported)
    held: list[Held] = []
    for scheme in schemes:
        kept, smoothed = (ActivationRounding(scheme=scheme, treatment=HELD_OUT), _choose_smoothed(context, scheme))
        if (reason := explain_both_destroyed(context, kept, smoothed)) is not None:
            reported.append(
                report_estimate(f"{kept} beside smoothquant", Estimate(EstimateStatus.MISSING, reason))
            )
            continue
        difference = mind_calibration(context, _compare(context, kept, smoothed))
        status = doubt_without_reference(difference, context.hold(difference, limit))
        held.append(
            Held(difference, make_finding(f"{kept} beside {smoothed.treatment}", difference, status, limit))
        )
    findings = [*(one.finding for one in held), *reported]
    if not held:
        because = "Under every scheme both arms are destroyed, hold-out and SmoothQuant: that decides nothing."
        remedy = "Give activations more bits (`[activations] schemes`)."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=remedy, findings=findings)
    worst = context.decide(held)
    return context.judge(
        worst.estimate,
        limit,
        status=worst.finding.status,
        subject=f"{worst.finding.label}: ",
        key=key,
        failed="Use SmoothQuant here, and do not count on the super activation alone: other outliers cost this "
        f"model more. If this loss is acceptable, raise `{key}`.",
        remedy=advise_text(context, worst.estimate),
        findings=findings,
    )


def _choose_smoothed(context: CheckContext, scheme: Scheme) -> ActivationRounding:
    """Return SmoothQuant with the policy's alpha or with the one found by search, whichever loses less."""
    usual, searched = (
        ActivationRounding(scheme=scheme, treatment=treatment) for treatment in (SMOOTHED, SEARCHED)
    )
    losses = {arm: measured.loss for arm in (usual, searched) if (measured := context.find_measurement(arm))}
    windows = min((len(loss.tokens) for loss in losses.values()), default=0)
    finite = {arm: nats for arm, loss in losses.items() if (nats := loss.first(windows).mean_nats) is not None}
    return min(finite, key=lambda arm: finite[arm], default=usual)


def _compare(context: CheckContext, kept: ActivationRounding, smoothed: ActivationRounding) -> Estimate:
    """Return the nats per token that one loses beyond the other: the logarithm of the ratio of perplexities."""
    ratio, intact = context.compare_perplexities(kept, smoothed), context.find_measurement(BASELINE.purpose)
    if intact is not None and intact.loss.perplexity is None:
        return Estimate(EstimateStatus.NO_REFERENCE, "the perplexity of the model as it is is not finite")
    if ratio.status is EstimateStatus.NO_REFERENCE:
        ours = context.find_measurement(kept)
        if ours is None or ours.loss.perplexity is None:
            return replace(ratio, status=EstimateStatus.NOT_FINITE)
        return Estimate(EstimateStatus.MEASURED, f"{ratio.words}, that of {kept.name!r} is", 0.0, 0.0, 0.0)
    if ratio.observed is None:
        return ratio
    observed, low, high = (None if end is None else _log(end) for end in (ratio.observed, ratio.low, ratio.high))
    difference = replace(ratio, observed=observed, low=low, high=high)
    both = [context.find_measurement(arm) for arm in (kept, smoothed)]
    perplexities = [None if measured is None else measured.loss.perplexity for measured in both]
    words = (
        f"perplexity {' beside '.join(map(write_number, perplexities))}, "
        f"{write_interval(difference, context.policy.confidence)} nats per token more"
    )
    if ratio.status is EstimateStatus.TOO_FEW:
        words += f"; {context.count_short(len(context.list_nats(kept)), 'windows')}"
    return replace(difference, words=words)


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _measure_shares(
    context: CheckContext, scheme: Scheme, minimum_harm: float
) -> dict[ActivationRounding, Estimate]:
    """Return which share of the nats lost naively each treatment saves; none where that loss is not certain."""
    plain = ActivationRounding(scheme=scheme, treatment=NAIVE)
    naive, base = context.compare_perplexities(plain), context.list_nats(BASELINE.purpose)
    if naive.interval is None or naive.interval[0] < minimum_harm:
        return {}
    return {
        arm: replace(
            context.share_loss(context.list_nats(plain), after, base, "of the nats lost naively {} are saved"),
            arms=(plain.name, arm.name),
        )
        for treatment in (HELD_OUT, SMOOTHED, SEARCHED)
        for arm in (ActivationRounding(scheme=scheme, treatment=treatment),)
        if explain_both_destroyed(context, plain, arm) is None and (after := context.list_nats(arm))
    }


def _judge_shares(
    context: CheckContext, shares: Mapping[str, Estimate], why: str, reported: Sequence[Finding]
) -> Verdict:
    """Judge the least share, where there is no SmoothQuant to compare with."""
    if not shares and not context.is_last_look:
        because = f"{why}, and naive rounding costs nothing certain yet."
        naive = context.compare_perplexities(
            ActivationRounding(scheme=context.policy.activations.parsed()[0], treatment=NAIVE)
        )
        return context.conclude(Status.INCONCLUSIVE, because, figure=naive)
    if not shares:
        return context.skip(f"{why}, and naive rounding costs nothing certain, or everything.", reported)
    limit = context.limits(HoldoutClosesGapLimits).minimum_share
    least = min(shares, key=lambda name: shares[name].observed or 0.0)
    share, key = shares[least], context.key("minimum_share")
    status = hold_at_least(share, limit)
    return context.conclude(
        status,
        f"{why}; {least}: {share.words}; at least {write_number(limit)} is wanted.",
        remedy=context.advise(
            status, share.status, failed=f"Do not count on the super activation alone, or lower `{key}`.", key=key
        ),
        figure=share,
        limit=limit,
        side="at least",
        quantity="share of the loss saved",
        findings=reported,
    )
