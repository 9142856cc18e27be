"""Whether probability drifts to stop words."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.generation_sane import generation_sane
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.pairs import Pair, hold_texts, judge_text, pair_up
from sw_audit.checks.registry import check
from sw_audit.checks.stop_words import compare_masses
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.record.arm import DESCENDANT, PARENT
from sw_audit.record.verdict import Verdict


class StopwordsNotRaisedLimits(Limits):
    """Limits of `stopwords-not-raised`.

    Attributes:
        maximum_ratio: Largest mass on stop words over the parent's. The specimen's sound copies stay within 1.02,
            two bits give 1.8; a fine-tune on another kind of text may shift some.
    """

    maximum_ratio: Ratio = 1.5


@check(
    id="stopwords-not-raised",
    order=240,
    title="Probability does not drift to stop words",
    meaning="A model that lost its super weights falls back on words without meaning, in most families.",
    quantity="stop-word mass ratio to the parent",
    fails="its mass on them is certainly above 1.5 times the parent's",
    limits=StopwordsNotRaisedLimits,
    level="gate",
    side="at most",
    spread=0.026,
    scope="descendant",
)
def stopwords_not_raised(context: CheckContext) -> Verdict:
    """Rule of `stopwords-not-raised` (Yu et al. 2024, section 3.3): the mass on stop words over the parent's.

    Skipped where no stop words were read on any text. That the mass falls is reported and fails nothing: in some
    families it does when super weights are lost, and other checks see that.
    """
    limit, key = context.limits(StopwordsNotRaisedLimits).maximum_ratio, context.key("maximum_ratio")
    pairs = {pair.label: pair for pair in pair_up(context)}
    measured = {label: _measure_mass(context, pair) for label, pair in pairs.items()}
    estimates = {label: estimate for label, estimate in measured.items() if estimate is not None}
    if not estimates:
        return context.skip("No stop words are known for this text (`[corpus] stop_words`).")
    held = hold_texts(context, estimates, limit)
    worst = context.decide(held)
    return judge_text(
        context,
        pairs[worst.finding.label],
        worst,
        limit,
        key=key,
        failed=f"Read its continuations (`{generation_sane.id}`) and look at `{super_weight_retained.id}`: "
        f"falling back on words without meaning is what a model does that lost these scalars; or raise `{key}`.",
        findings=[one.finding for one in held],
    )


def _measure_mass(context: CheckContext, pair: Pair) -> Estimate | None:
    parent, descendant = pair.measured(PARENT), pair.measured(DESCENDANT)
    if parent is None or descendant is None:
        name = PARENT if parent is None else DESCENDANT.name
        return Estimate(EstimateStatus.MISSING, f"the arm {str(name)!r} was not measured under this protocol")
    if parent.stop_words is None or descendant.stop_words is None:
        return None
    if descendant.stop_words.mean_mass is None:
        return Estimate(EstimateStatus.NOT_FINITE, "the mass on stop words of the descendant is not finite")
    return compare_masses(context, parent.stop_words, descendant.stop_words, ("the parent", "the descendant"))
