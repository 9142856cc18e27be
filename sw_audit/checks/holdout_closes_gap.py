"""How much of what quantizing activations costs the super activation alone wins back."""

from __future__ import annotations

from pydantic import Field

from sw_audit.checks.activation_rounding import advise_text, explain_skipped, mind_calibration, plan_schemes
from sw_audit.checks.arms import ArmPlan
from sw_audit.checks.context import CheckContext, Held, report_estimate
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    make_finding,
    write_number,
)
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.policy.scheme import Scheme
from sw_audit.record.arm import BASELINE, HELD_OUT, NAIVE, SEARCHED, SMOOTHED, ActivationRounding, Arm, Treatment
from sw_audit.record.verdict import Finding, Verdict


class HoldoutClosesGapLimits(Limits):
    """Limits of `holdout-closes-gap`.

    Attributes:
        minimum_share: Part of the nats per token lost by quantizing activations naively that holding the super
            activation out saves. In the paper it is 0.09 (Llama-2-7B) to 0.84 (OLMo-1B); half of the least.
        minimum_harm: Naive perplexity over full precision, at least, or there is no gap worth closing. The
            paper's smallest is 1.013 (Mistral-7B).
    """

    minimum_share: Share = 0.05
    minimum_harm: float = Field(default=1.01, gt=1)


def _plan(plan: ArmPlan) -> list[Arm]:
    treatments = (NAIVE, HELD_OUT, SMOOTHED, SEARCHED) if plan.targets.super_weights else (NAIVE,)
    return plan_schemes(plan, *treatments)


@check(
    id="holdout-closes-gap",
    order=140,
    title="Holding the super activation out wins back what quantizing activations costs",
    meaning="How much of the gap between naive rounding and full precision one scalar closes, beside SmoothQuant.",
    quantity="share of the loss saved",
    fails="it saves less than 0.05 of the nats lost; skipped where naive rounding does not certainly cost 1.01 "
    "times",
    limits=HoldoutClosesGapLimits,
    level="law",
    known="W8A8: 0.60 of the gap for Llama-7B, SmoothQuant 0.80; 0.09 for Llama-2-7B (Yu et al. 2024, "
    "tables 3 and 4)",
    unit="share",
    side="at least",
    needs_super_weight=True,
    needs=frozenset({Need.ACTIVATIONS, Need.SMOOTHING}),
    arms=_plan,
)
def holdout_closes_gap(context: CheckContext) -> Verdict:
    """Rule of `holdout-closes-gap` (Yu et al. 2024, section 4.1, tables 3 and 4).

    The share is (naive - hold-out) / (naive - full precision), each in nats summed over the same windows, so the
    bootstrap pairs all three arms. A scheme counts where naive rounding does certain harm: the lower end of its
    perplexity ratio's interval is at least `minimum_harm`. Elsewhere there is no gap to close; where no scheme
    does such harm, the check is skipped. SmoothQuant's share of the same gap is reported and decides nothing. A
    naive arm that is not finite while the hold-out is finite is closed.
    """
    if (reason := explain_skipped(context)) is not None:
        return context.skip(reason)
    limits, key = context.limits(HoldoutClosesGapLimits), context.key("minimum_share")
    limit = limits.minimum_share
    reported: list[Finding] = []
    gaps: list[tuple[Held, dict[str, Finding]]] = []
    for scheme in context.policy.activations.parsed():
        plain, kept = (ActivationRounding(scheme=scheme, treatment=one) for one in (NAIVE, HELD_OUT))
        naive = context.compare_perplexities(plain)
        if naive.interval is not None and naive.interval[0] < limits.minimum_harm:
            reported.append(report_estimate(plain.name, naive))
            continue
        share = _measure_share(context, scheme, HELD_OUT, naive)
        # Full precision that is not finite leaves nothing to compare with: nobody's fault here.
        status = doubt_without_reference(share, context.hold(share, limit))
        held = Held(share, make_finding(kept.name, share, status, limit))
        gaps.append((held, _report_smoothquant(context, scheme, naive)))
    findings = [*reported, *(one for held, smoothed in gaps for one in (held.finding, *smoothed.values()))]
    if not gaps:
        return context.skip(_say_no_gap(limits), findings)
    worst = context.decide([held for held, _ in gaps])
    smoothed = next(smoothed for held, smoothed in gaps if held is worst)
    shares = [
        f"{label} {write_number(finding.observed)}"
        for label, finding in smoothed.items()
        if finding.observed is not None
    ]
    return context.judge(
        worst.estimate,
        limit,
        status=worst.finding.status,
        subject=f"{worst.finding.label}: ",
        more_words=f" ({'; '.join(shares)})" if shares else "",
        key=key,
        failed="Do not count on the super activation alone: other outliers, or the weights, cost this model "
        f"more; try SmoothQuant, or weights per row (`[activations] weights`), or lower `{key}`.",
        remedy=advise_text(context, worst.estimate),
        findings=findings,
    )


def _measure_share(context: CheckContext, scheme: Scheme, treatment: Treatment, naive: Estimate) -> Estimate:
    """Return the part of the loss by naive rounding that another treatment saves."""
    remaining = context.compare_perplexities(ActivationRounding(scheme=scheme, treatment=treatment))
    for estimate in (naive, remaining):
        if estimate.status in (EstimateStatus.MISSING, EstimateStatus.NO_REFERENCE):
            return mind_calibration(context, estimate)
    if remaining.status is EstimateStatus.NOT_FINITE:
        return Estimate(EstimateStatus.NOT_FINITE, f"nothing is saved: {remaining.words}")
    if naive.status is EstimateStatus.NOT_FINITE:
        words = f"{naive.words}, while with the super activation held out {remaining.words}"
        return Estimate(EstimateStatus.MEASURED, words, 1.0, 1.0, 1.0)
    before, after, base = (
        context.list_nats(arm)
        for arm in (
            ActivationRounding(scheme=scheme, treatment=NAIVE),
            ActivationRounding(scheme=scheme, treatment=treatment),
            BASELINE.purpose,
        )
    )
    return context.share_loss(
        before, after, base, f"{naive.words} naively; of the nats lost a share of {{}} is saved"
    )


def _report_smoothquant(context: CheckContext, scheme: Scheme, naive: Estimate) -> dict[str, Finding]:
    """Report SmoothQuant's share of the same gap, by what it was done with."""
    setup, alpha = context.result.activations, context.policy.activations.alpha
    if setup is not None and setup.unsmoothable is not None:
        reason = f"SmoothQuant does not apply: {setup.unsmoothable}"
        estimates = {SMOOTHED: Estimate(EstimateStatus.MISSING, reason)}
    else:
        estimates = {f"{SMOOTHED}, alpha {alpha:g}": _measure_share(context, scheme, SMOOTHED, naive)}
        chosen = None if setup is None else setup.chosen(str(scheme))
        if chosen is not None and chosen != alpha:
            share = _measure_share(context, scheme, SEARCHED, naive)
            estimates[f"{SMOOTHED}, alpha {chosen:g} as searched"] = share
    return {label: report_estimate(f"{scheme} {label}", estimate) for label, estimate in estimates.items()}


def _say_no_gap(limits: HoldoutClosesGapLimits) -> str:
    limit = write_number(limits.minimum_harm)
    return f"There is no gap to close: no scheme, rounded naively, is certain to grow perplexity {limit} times."
