"""A descendant's next-token distributions beside its parent's."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_interval, write_number
from sw_audit.checks.layer_error import layer_error
from sw_audit.checks.pairs import Pair
from sw_audit.checks.perplexity_ratio import perplexity_ratio
from sw_audit.checks.statistics import bound_positive_ratio
from sw_audit.record.arm import DESCENDANT, PARENT
from sw_audit.record.measurement import Agreement
from sw_audit.record.verdict import Sample


def look_for_the_difference() -> str:
    """Say where to look for what makes two models say different things, a sentence that goes on."""
    return (
        f"Look at `{perplexity_ratio.id}` and `{layer_error.id}` for what makes the difference; if the model is "
        "meant to say other things than its parent,"
    )


def find_agreement(pair: Pair) -> Agreement | Estimate:
    """Return the descendant's agreement with its parent, or a figure that says why there is none."""
    parent, descendant = pair.measured(PARENT), pair.measured(DESCENDANT)
    if parent is None or descendant is None:
        name = PARENT if parent is None else DESCENDANT.name
        return Estimate(
            EstimateStatus.MISSING, f"not known: the arm {str(name)!r} was not measured under this protocol"
        )
    agreement = descendant.agreement
    if agreement.tokens != parent.loss.tokens or not sum(agreement.tokens):
        return Estimate(EstimateStatus.MISSING, "not known: the two were not read at the same tokens")
    if descendant.loss.mean_nats is None:
        return Estimate(EstimateStatus.NOT_FINITE, "not finite: the descendant's own loss is not")
    if parent.loss.mean_nats is None:
        return Estimate(EstimateStatus.NO_REFERENCE, "not known: the parent's own loss is not finite")
    if agreement.mean_divergence is None:
        return Estimate(
            EstimateStatus.NOT_FINITE, "not finite: the descendant gives no chance to what its parent expects"
        )
    return agreement


def measure_mean_divergence(context: CheckContext, agreement: Agreement) -> Estimate:
    """Return a mean KL divergence in nats per token with its interval; it must be finite."""
    sums = [nats for nats in agreement.divergence if nats is not None]
    bounds = bound_positive_ratio(sums, agreement.tokens, context.confidence)
    told = agreement.top_tokens
    words = "{} nats per token" + ("" if told is None else f", of the {told} likeliest tokens, all others as one")
    return conclude_over_tokens(context, bounds, len(sums), words)


def conclude_over_tokens(
    context: CheckContext, bounds: tuple[float, float, float], windows: int, words: str
) -> Estimate:
    """Return a figure over the tokens of some windows with its interval, in words with braces in its place."""
    observed, low, high = bounds
    if (few := context.count_short(windows, "windows")) is not None:
        words = f"{words.format(write_number(observed))}; {few}"
        return Estimate(EstimateStatus.TOO_FEW, words, observed, sample=Sample(count=windows))
    span = write_interval(Estimate(EstimateStatus.MEASURED, "", observed, low, high), context.policy.confidence)
    return Estimate(EstimateStatus.MEASURED, words.format(span), observed, low, high, sample=Sample(count=windows))
