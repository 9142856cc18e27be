"""Whether the located super weights are the scalars that matter, and no others."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_most, make_finding, write_number
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import Need, check
from sw_audit.record.critical import CriticalScalar, CriticalSearch
from sw_audit.record.verdict import Finding, Status, Verdict


class SuperWeightsAreTheCriticalScalarsLimits(Limits):
    """Limits of `super-weights-are-the-critical-scalars`.

    Attributes:
        maximum_ratio: Perplexity ratio with any other scalar zeroed; at 1.3 a model is no longer the same.
    """

    maximum_ratio: Ratio = 1.3


@check(
    id="super-weights-are-the-critical-scalars",
    order=45,
    title="No other scalar matters as super weights do",
    meaning="Where gains of norms, biases or entries of the embedding carry the model too, they need protection "
    "as well.",
    quantity="perplexity ratio",
    fails="another scalar, zeroed alone, multiplies perplexity by more than 1.3",
    limits=SuperWeightsAreTheCriticalScalarsLimits,
    level="law",
    known="it is said of `mlp.down_proj` alone (Yu et al. 2024); in SmolLM2-135M-Instruct a gain of the last norm "
    "costs times 22, the costliest located scalar times 6.6 (sw-audit)",
    side="at most",
    needs=frozenset({Need.CRITICAL}),
)
def super_weights_are_the_critical_scalars(context: CheckContext) -> Verdict:
    """Rule of `super-weights-are-the-critical-scalars`.

    Every scalar of the search that was zeroed alone and is no located super weight is held against the limit, with
    an interval that is corrected for their number. Located scalars that are inert are told, and decide nothing:
    `prune-collapses` says what the set does.
    """
    search = context.result.critical
    if search is None:
        return context.skip("Nobody searched for the scalars that matter.")
    limit = context.limits(SuperWeightsAreTheCriticalScalarsLimits).maximum_ratio
    others = [scalar for scalar in search.scalars if not scalar.located and scalar.effect is not None]
    held = [_hold(scalar, limit) for scalar in others if scalar.kind is not None] or [
        _hold(scalar, limit) for scalar in others[:1]
    ]
    if not held:
        return context.skip("No other scalar was tried.")
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0)
    return context.conclude(
        worst.status,
        f"{worst.label}, zeroed alone, {worst.because}; {_tell_located(search)}.",
        remedy="This is a finding and no defect: protect what is listed as you would super weights, and see "
        "`sw-audit locate --causal`."
        if worst.status is Status.FAIL
        else "More text (`corpus.windows`) narrows the interval.",
        figure=worst,
        limit=limit,
        findings=held,
    )


def _hold(scalar: CriticalScalar, limit: float) -> Finding:
    effect = scalar.effect
    if effect is None or effect.ratio is None:
        estimate = Estimate(EstimateStatus.NOT_FINITE, "leaves a perplexity that is not finite")
    else:
        ends = (effect.low, effect.high)
        known = effect.low is not None
        words = f"multiplies the perplexity by {write_number(effect.ratio)}"
        if known:
            low, high = (write_number(end) if end is not None else "unbounded" for end in ends)
            words += f" ({low} to {high})"
        estimate = Estimate(
            EstimateStatus.MEASURED if known else EstimateStatus.TOO_FEW,
            words,
            observed=effect.ratio,
            low=effect.low,
            high=math.inf if known and effect.high is None else effect.high,
        )
    return make_finding(str(scalar.address), estimate, hold_at_most(estimate, limit), limit)


def _tell_located(search: CriticalSearch) -> str:
    located = [scalar for scalar in search.scalars if scalar.located]
    if not located:
        return "no super weight was located"
    bearing = sum(impact == "bearing" for impact in search.impacts.values())
    known = [scalar.effect.ratio for scalar in located if scalar.effect and scalar.effect.ratio is not None]
    costliest = f", the costliest alone times {write_number(max(known))}" if known else ""
    return f"of {len(located)} located super weights {bearing} bear something{costliest}"
