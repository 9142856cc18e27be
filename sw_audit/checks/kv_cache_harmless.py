"""What a quantized key-value cache costs a model in its engine, beside the engine's own cache."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.distributions import measure_mean_divergence
from sw_audit.checks.estimate import Estimate, EstimateStatus, doubt_without_reference
from sw_audit.checks.keys_in_proportion import keys_in_proportion
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.record.arm import BASELINE, CacheRounding
from sw_audit.record.verdict import Finding, Verdict


class KvCacheHarmlessLimits(Limits):
    """Limits of `kv-cache-harmless`.

    Attributes:
        maximum_ratio: Margin of non-inferiority: perplexity over that with the engine's own cache, the
            upper end of the interval; the margin of `perplexity-ratio`. SmolLM2-135M-Instruct in llama.cpp is
            at 1.006 (q8_0), 1.006 (q5_1) and 1.024 (q4_0; mean KLD 0.054); a random Qwen2 at 0.997 in q4_0, and
            with a huge bias of its keys at 1.44.
    """

    maximum_ratio: Ratio = 1.1


@check(
    id="kv-cache-harmless",
    order=197,
    title="A quantized key-value cache is not worse than the engine's own by more than the margin",
    meaning="The cache is rounded while the model runs: no look at files can see what that costs.",
    quantity="perplexity ratio to the engine's own cache",
    fails="perplexity with a form of the cache that `kv_cache` names is certainly more than 1.1 times that with "
    "the engine's own",
    limits=KvCacheHarmlessLimits,
    level="gate",
    side="at most",
    spread=0.13,
    scope="engine",
)
def kv_cache_harmless(context: CheckContext) -> Verdict:
    """Rule of `kv-cache-harmless`: non-inferiority of every form that is asked for, the worst one decides.

    Keys and values are kept in the form at every position; the model, the engine and the tokens are the same.
    PASS where the upper end of the paired interval is within the margin, FAIL where the lower end is beyond it.
    The mean KL divergence from the engine's own cache is told.
    """
    forms, limit = _list_forms(context), context.limits(KvCacheHarmlessLimits).maximum_ratio
    if not forms:
        return context.skip("No other form of the cache was asked for (`kv_cache` in its `[[model]]` table).")
    estimates = {form: context.compare_perplexities(CacheRounding(form=form)) for form in forms}
    held = context.hold_each(estimates, limit)
    worst = context.decide(held)
    status = doubt_without_reference(worst.estimate, worst.finding.status)
    advice = (
        "Keep this model's cache in a form that passes, or in the engine's own; "
        f"`{keys_in_proportion.id}` names the layers whose keys it loses; or, if this loss is acceptable, raise "
        f"`{context.key('maximum_ratio')}`."
    )
    return context.judge(
        worst.estimate,
        limit,
        key=context.key("maximum_ratio"),
        failed=advice,
        status=status,
        subject=f"Cache in {worst.finding.label}: ",
        findings=[*(one.finding for one in held), *(_tell_divergence(context, form) for form in forms)],
    )


def _list_forms(context: CheckContext) -> tuple[str, ...]:
    """List the forms that were measured, and those that the policy asks for, each once."""
    purposes = (measured.arm.purpose for measured in context.result.measurements)
    measured = [purpose.form for purpose in purposes if isinstance(purpose, CacheRounding)]
    named = next((model for model in context.policy.models if model.id == context.result.id), None)
    return tuple(dict.fromkeys([*measured, *(named.kv_cache if named is not None else ())]))


def _tell_divergence(context: CheckContext, form: str) -> Finding:
    label, measured = f"{form}: Mean KLD", context.find_measurement(CacheRounding(form=form))
    own = context.find_measurement(BASELINE.purpose)
    known = measured is not None and own is not None and measured.agreement.mean_divergence is not None
    if measured is None or not known:
        return report_estimate(label, Estimate(EstimateStatus.MISSING, "not known, or not finite"))
    return report_estimate(label, measure_mean_divergence(context, measured.agreement))
