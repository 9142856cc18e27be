"""What a descendant's quality on text is beside its parent's, and what putting parts back recovers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sw_audit.checks.advice import LeftOut, paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.pairs import Pair, hold_texts, judge_text, pair_up
from sw_audit.checks.recovery import Recovery, Search, list_searches
from sw_audit.checks.registry import check
from sw_audit.record.arm import RestoredKind, RestoredLayer, RestoredModule
from sw_audit.record.verdict import Status, Verdict

_MORE_BITS = (
    "give weights more bits or smaller groups, take a quantizer that learns from activations (GPTQ, AWQ), prune "
    "less, or train more gently and on text like this one"
)


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
    spread=0.13,
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
    searches = list_searches(context, limit)
    reported = [
        report_estimate(f"{search.pair.label}, {recovery.subject} put back", recovery.estimate)
        for search in searches
        for recovery in search.recoveries
    ]
    telling = _choose_search(searches, pair)
    return judge_text(
        context,
        pair,
        worst,
        limit,
        more_words="" if status is Status.PASS else _tell_recovery(telling, pair),
        key=key,
        failed=_advise_loss(telling, key),
        paste=paste_ignore(_leave_out(telling.advised)) if status is Status.FAIL else (),
        findings=[*(one.finding for one in held), *reported],
    )


def _choose_search(searches: Sequence[Search], deciding: Pair) -> Search:
    """Choose what is told of: the search for several parts, else the text that decides, else any with a loss."""
    first = [search for search in searches if search.total]
    first += [search for search in searches if search.pair.label == deciding.label]
    return next((search for search in (*first, *searches) if search.recoveries), first[0])


def _leave_out(recovery: Recovery | None) -> LeftOut:
    if recovery is None:
        return LeftOut()
    return LeftOut(
        modules=(
            *recovery.holding,
            *(part.module for part in recovery.parts if isinstance(part, RestoredModule)),
        ),
        kinds=tuple(part.path for part in recovery.parts if isinstance(part, RestoredKind)),
        layers=tuple(part.layer for part in recovery.parts if isinstance(part, RestoredLayer)),
    )


def _tell_recovery(search: Search, deciding: Pair) -> str:
    """Tell step by step what is recovered; where that is not most of it, also by all decoder layers."""
    path, weights = search.path, search.weights
    told = [f"with {one.subject} put back {one.told}" for one in path[:1]]
    if weights is not None and weights not in path[:1]:
        told.insert(0, f"with {weights.subject} put back {weights.told}")
    told += [f"with {after.added} as well {after.share}" for _, after in pairwise(path)]
    if search.advised is not None and search.advised not in (weights, *path):
        told.append(f"with {search.advised.subject} put back {search.advised.share}")
    if search.spread and search.whole is not None:
        told.append(f"with {search.whole.subject} put back {search.whole.share}")
    if search.advised is None and (scalars := search.healing_scalars) is not None:
        told.append(f"with {scalars.subject} put back {scalars.told}")
    where = "" if search.pair.label == deciding.label or not told else f" (on {search.pair.label})"
    return "".join(f"; {words}" for words in told) + where


def _advise_loss(search: Search, key: str) -> str:
    """Advise in proportion: the few parts that recover 80 % of the loss, else more bits, each with its share."""
    more = f"{_MORE_BITS}; or, if this loss is acceptable, raise `{key}`."
    advised, path, weights, whole = search.advised, search.path, search.weights, search.whole
    first = path[:1] if advised is None else [one for one in search.recoveries if one.arm == advised.parts[0]]
    parts = list(dict.fromkeys(one for one in (weights, *first) if one is not None))
    some = [one for one in parts if not one.heals and (one.estimate.interval or (0.0,))[0] > 0]
    alone = [f"with {one.subject} alone {one.share}" for one in some]
    if advised is not None:
        together = " together" if len(advised.parts) > 1 else ""
        also = "".join(f"; {words}, which will not do" for words in alone)
        return (
            f"L{write_ignore(_leave_out(advised))[1:]}{together}: {advised.told}{also}; or, if it was trained, "
            "put the parent's values back there."
        )
    if (scalars := search.healing_scalars) is not None:
        return (
            f"Put {scalars.subject} back, those that the gate on them names: {scalars.told}; or, if this loss is "
            f"acceptable, raise `{key}`."
        )
    if not search.recoveries:
        return f"{more[0].upper()}{more[1:]}"
    if search.outside and whole is not None:
        return (
            f"What is lost lies outside the decoder layers: {whole.told} with {whole.subject} put back. Put the "
            f"parent's embeddings, final norm and head back; or, if this loss is acceptable, raise `{key}`."
        )
    if search.spread and path:
        best = f"{path[-1].told} with {path[-1].subject} put back, {path[-1].size} of {search.total} modules"
        also = "".join(f"; {words}" for words in alone if path[1:])
        return (
            f"The loss is spread over many modules, and leaving some out will not do: {best}{also}. "
            f"{more[0].upper()}{more[1:]}"
        )
    if alone:
        return f"This alone will not do: {'; '.join(alone)}. {more[0].upper()}{more[1:]}"
    return f"No part that was put back accounts for the loss: {more}"
