"""At how many tokens both models find the same one likeliest."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.distributions import conclude_over_tokens, find_agreement, look_for_the_difference
from sw_audit.checks.estimate import Estimate
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.pairs import Pair, hold_texts, judge_text, pair_up
from sw_audit.checks.registry import check
from sw_audit.checks.statistics import bound_token_share
from sw_audit.record.verdict import Verdict


class Top1AgreementLimits(Limits):
    """Limits of `top1-agreement`.

    Attributes:
        minimum_share: Smallest share of tokens at which both find the same token most likely. Where several
            tokens are about as likely, the least change turns their order: a fine-tune of the specimen whose
            perplexity is 1.03 times the parent's agrees at 0.87 of the tokens, sound 4-bit copies at 0.89 to 0.94,
            but three bits at 0.68.
    """

    minimum_share: Share = 0.85


@check(
    id="top1-agreement",
    order=220,
    title="Both find the same token most likely",
    meaning="How often greedy decoding takes the same next step as the parent.",
    quantity="share of tokens",
    fails="at certainly fewer than 85 % of the tokens",
    limits=Top1AgreementLimits,
    level="gate",
    unit="share",
    side="at least",
    spread=0.044,
    scope="descendant",
)
def top1_agreement(context: CheckContext) -> Verdict:
    """Rule of `top1-agreement`, llama.cpp's `Same top p`: at how many tokens both find the same one likeliest."""
    limit, key = context.limits(Top1AgreementLimits).minimum_share, context.key("minimum_share")
    pairs = {pair.label: pair for pair in pair_up(context)}
    estimates = {label: _measure_agreement(context, pair) for label, pair in pairs.items()}
    held = hold_texts(context, estimates, limit)
    worst = context.decide(held)
    return judge_text(
        context,
        pairs[worst.finding.label],
        worst,
        limit,
        key=key,
        failed=f"{look_for_the_difference()} lower `{key}`.",
        findings=[one.finding for one in held],
    )


def _measure_agreement(context: CheckContext, pair: Pair) -> Estimate:
    agreement = find_agreement(pair)
    if isinstance(agreement, Estimate):
        return agreement
    bounds = bound_token_share(agreement.same_top, agreement.tokens, context.confidence)
    words = "both find the same token likeliest at {} of the tokens"
    return conclude_over_tokens(context, bounds, len(agreement.tokens), words)
