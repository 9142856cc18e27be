"""What a descendant's quality on text is beside its parent's, and what putting parts back recovers."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.checks.advice import paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, decide_finding, report_figure
from sw_audit.checks.estimate import hold_at_most, write_number
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.pairs import advise_pair, hold_texts, pair_up
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
    figures = {label: pair.compare(context) for label, pair in pairs.items()}
    held = hold_texts(figures, hold_at_most, limit)
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0)
    recoveries = {label: measure_recoveries(context, pair) for label, pair in pairs.items()}
    reported = [
        report_figure(f"{label}, {one.subject} put back", one.figure)
        for label, found in recoveries.items()
        for one in found
    ]
    telling = recoveries[worst.label] or next((found for found in recoveries.values() if found), [])
    modules = _choose_modules(telling)
    figure = figures[worst.label]
    told = "" if worst.status is Status.PASS else _tell_recovery(telling)
    return context.conclude(
        worst.status,
        f"{worst.label}: {figure.words}; at most {write_number(limit)} is allowed{told}.",
        remedy=advise_pair(
            context, worst.status, figure.basis, failed=_advise_loss(telling, modules, key), key=key
        ),
        paste=paste_ignore(modules) if worst.status is Status.FAIL else (),
        figure=figure,
        limit=limit,
        findings=[*held, *reported],
        protocol=pairs[worst.label].text.protocol.signature,
    )


def _choose_modules(recoveries: Sequence[Recovery]) -> tuple[str, ...]:
    """Choose the modules to leave out: those of the first part that heals, else of all that certainly help."""
    healing = [one for one in recoveries if one.heals][:1]
    chosen = healing or [one for one in recoveries if one.helps]
    return tuple(dict.fromkeys(module for one in chosen for module in one.modules))


def _tell_recovery(recoveries: Sequence[Recovery]) -> str:
    """Tell what the super weights recover, and the best of the modules where these do not heal."""
    told = [one for one in recoveries[:2] if one is recoveries[0] or not recoveries[0].heals]
    return "".join(f"; with {one.subject} put back {one.figure.words}" for one in told)


def _advise_loss(recoveries: Sequence[Recovery], modules: Sequence[str], key: str) -> str:
    if modules:
        advice = write_ignore(modules)
        return f"{advice[0].upper()}{advice[1:]}; or, if it was trained, put the parent's values back there."
    advice = f"{_MORE_BITS}; or, if this loss is acceptable, raise `{key}`."
    if recoveries:
        return f"No part that was put back accounts for the loss: {advice}"
    return f"{advice[0].upper()}{advice[1:]}"
