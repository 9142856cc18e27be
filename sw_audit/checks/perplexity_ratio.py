"""What a descendant's quality on text is beside its parent's, and what putting parts back recovers."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.checks.advice import paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.pairs import hold_texts, judge_text, pair_up
from sw_audit.checks.recovery import Recovery, measure_recoveries
from sw_audit.checks.registry import check
from sw_audit.record.verdict import Status, Verdict

_MORE_BITS = "give weights more bits or smaller groups, prune less, or train more gently and on text like this one"


class PerplexityRatioLimits(Limits):
    """Limits of `perplexity-ratio`.

    Attributes:
        maximum_ratio: Margin of non-inferiority: perplexity over the parent's, the upper end of the interval. The
            specimen's sound 4-bit copies are at 1.008 to 1.09, its fine-tunes below 1.03; halving the super weight
            gives 1.3, three bits give 2.5, and a lost super weight 539.
    """

    maximum_ratio: Ratio = 1.1


@check(
    id="perplexity-ratio",
    order=200,
    title="Perplexity is not worse than the parent's by more than the margin",
    meaning="The loss of quality on text, paired window by window.",
    quantity="perplexity ratio to the parent",
    fails="perplexity is certainly more than 1.1 times the parent's, on any text",
    limits=PerplexityRatioLimits,
    level="gate",
    side="at most",
    scope="descendant",
)
def perplexity_ratio(context: CheckContext) -> Verdict:
    """Rule of `perplexity-ratio`: non-inferiority on every text, the worst one decides.

    PASS where the upper end of the paired interval is within the margin, FAIL where the lower end is beyond it.
    A descendant that is not finite fails; by a parent that is not finite nothing can be told. What putting parts
    of the parent back recovers is reported, where there is a certain loss, and decides nothing.
    """
    limit, key = context.limits(PerplexityRatioLimits).maximum_ratio, context.key("maximum_ratio")
    pairs = {pair.label: pair for pair in pair_up(context)}
    estimates = {label: pair.compare(context) for label, pair in pairs.items()}
    held = hold_texts(context, estimates, limit)
    worst = context.decide(held)
    pair, status = pairs[worst.finding.label], worst.finding.status
    recoveries = {label: measure_recoveries(context, pair) for label, pair in pairs.items()}
    reported = [
        report_estimate(f"{label}, {recovery.subject} put back", recovery.estimate)
        for label, recovered in recoveries.items()
        for recovery in recovered
    ]
    telling = recoveries[pair.label] or next((recovered for recovered in recoveries.values() if recovered), [])
    modules = _choose_modules(telling)
    return judge_text(
        context,
        pair,
        worst,
        limit,
        more_words="" if status is Status.PASS else _tell_recovery(telling),
        key=key,
        failed=_advise_loss(telling, modules, key),
        paste=paste_ignore(modules) if status is Status.FAIL else (),
        findings=[*(one.finding for one in held), *reported],
    )


def _choose_modules(recoveries: Sequence[Recovery]) -> tuple[str, ...]:
    """Choose the modules to leave out: those of the first part that heals, else of all that certainly help."""
    healing = [one for one in recoveries if one.heals][:1]
    chosen = healing or [one for one in recoveries if one.helps]
    return tuple(dict.fromkeys(module for one in chosen for module in one.modules))


def _tell_recovery(recoveries: Sequence[Recovery]) -> str:
    """Tell what the super weights recover, and the best of the modules where these do not heal."""
    telling = recoveries[:1] if recoveries and recoveries[0].heals else recoveries[:2]
    return "".join(f"; with {recovery.subject} put back {recovery.estimate.words}" for recovery in telling)


def _advise_loss(recoveries: Sequence[Recovery], modules: Sequence[str], key: str) -> str:
    if modules:
        advice = write_ignore(modules)
        return f"{advice[0].upper()}{advice[1:]}; or, if it was trained, put the parent's values back there."
    advice = f"{_MORE_BITS}; or, if this loss is acceptable, raise `{key}`."
    if recoveries:
        return f"No part that was put back accounts for the loss: {advice}"
    return f"{advice[0].upper()}{advice[1:]}"
