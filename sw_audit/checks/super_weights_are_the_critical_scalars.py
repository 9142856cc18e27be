"""Whether the scalar that costs most is a super weight."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    doubt_without_reference,
    hold_at_most,
    make_finding,
    write_number,
)
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import Need, check
from sw_audit.record.critical import CriticalScalar, Effect
from sw_audit.record.verdict import Finding, Status, Verdict


class SuperWeightsAreTheCriticalScalarsLimits(Limits):
    """Limits of `super-weights-are-the-critical-scalars`.

    Attributes:
        maximum_ratio: Perplexity with the costliest other scalar zeroed, over that with the costliest super weight
            zeroed; above 1 another scalar is the one to lose least.
    """

    maximum_ratio: Ratio = 1.0


@check(
    id="super-weights-are-the-critical-scalars",
    order=45,
    title="The scalar that costs most is a super weight",
    meaning="Where a gain of a norm, a bias or an entry of the embedding costs more, it needs more protection.",
    quantity="perplexity ratio",
    fails="another scalar, zeroed alone, costs more than the costliest super weight",
    limits=SuperWeightsAreTheCriticalScalarsLimits,
    level="law",
    known="it is said of `mlp.down_proj` alone (Yu et al. 2024); in SmolLM2-135M-Instruct a gain of the last norm "
    "costs times 22, the costliest super weight times 6.6 (sw-audit)",
    side="at most",
    needs_super_weight=True,
    needs=frozenset({Need.CRITICAL}),
)
def super_weights_are_the_critical_scalars(context: CheckContext) -> Verdict:
    """Rule of `super-weights-are-the-critical-scalars`.

    Both perplexities are of the same windows, and their ratio's interval is corrected for the number of scalars
    that were tried. What each other scalar that matters costs is told beside, and which located ones are inert.
    """
    search = context.result.critical
    if search is None:
        return context.skip("Nobody searched for the scalars that matter.")
    costliest = {
        located: max(
            (one for one in search.scalars if one.located == located and one.effect is not None),
            key=_order,
            default=None,
        )
        for located in (True, False)
    }
    own, other = costliest[True], costliest[False]
    if search.lead is None or own is None or other is None:
        return context.skip("No other scalar was tried.")
    limit = context.limits(SuperWeightsAreTheCriticalScalarsLimits).maximum_ratio
    estimate = _estimate(search.lead, "their ratio")
    if search.lead.ratio is None and own.effect is not None and own.effect.ratio is not None:
        estimate = Estimate(EstimateStatus.NOT_FINITE, "its perplexity is not finite")
    status = doubt_without_reference(estimate, hold_at_most(estimate, limit))
    inert = [name for name, impact in search.impacts.items() if impact == "inert"]
    told = f"; inert: {', '.join(inert)}" if inert else ""
    remedy = (
        f"This is a finding and no defect: protect {other.address} as you would super weights; "
        "`sw-audit locate --causal` lists all that matter."
        if status is Status.FAIL
        else 'More text narrows the interval: `effort = "thorough"` searches on all of it.'
    )
    return context.conclude(
        status,
        f"The costliest other scalar is {other.address}, {_tell(other)}; the costliest super weight is "
        f"{own.address}, {_tell(own)}{told}.",
        remedy=remedy,
        figure=make_finding("costliest other over costliest super weight", estimate, status, limit),
        limit=limit,
        findings=[_report(scalar) for scalar in search.critical],
    )


def _order(scalar: CriticalScalar) -> float:
    return math.inf if scalar.effect is None or scalar.effect.ratio is None else scalar.effect.ratio


def _tell(scalar: CriticalScalar) -> str:
    ratio = None if scalar.effect is None else scalar.effect.ratio
    return "whose perplexity is not finite" if ratio is None else f"times {write_number(ratio)}"


def _estimate(effect: Effect, words: str) -> Estimate:
    if effect.ratio is None:
        return Estimate(EstimateStatus.NO_REFERENCE, words)
    known = effect.low is not None
    return Estimate(
        EstimateStatus.MEASURED if known else EstimateStatus.TOO_FEW,
        words,
        observed=effect.ratio,
        low=effect.low,
        high=math.inf if known and effect.high is None else effect.high,
    )


def _report(scalar: CriticalScalar) -> Finding:
    estimate = (
        Estimate(EstimateStatus.MISSING, "zeroed only together with others")
        if scalar.effect is None
        else _estimate(scalar.effect, "zeroed alone")
    )
    return make_finding(str(scalar.address), estimate, Status.SKIPPED, None)
