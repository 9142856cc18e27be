"""What to measure next where a descendant's quality fails: which parts of the parent to put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import EstimateStatus
from sw_audit.checks.perplexity_ratio import PerplexityRatioLimits, perplexity_ratio
from sw_audit.checks.recovery import Recovery, Search, is_certain, list_searches
from sw_audit.checks.super_weight_retained import SuperWeightRetainedLimits
from sw_audit.fact import Fact
from sw_audit.policy.policy import Policy
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import RestoredKind, RestoredLayer, RestoredModule, RestoredPart, RestoredSet
from sw_audit.record.descent import RetainedWeight
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status

# Parts that are tried beside those that were chosen, in each step.
_WIDTH = 2
# The search is on short windows: so many tokens in each, and so many in all, if there are as many.
_WINDOW, _TOKENS = 128, 1024


class RecoveryPlan(Fact):
    """Parts of the parent to put back into a descendant: first one by one, then together.

    Attributes:
        window: Tokens per window of the text's beginning on which that is measured.
        windows: How many windows.
        modules: How many single modules.
        layers: How many whole layers.
        lost: The parent's super weights that the descendant has not kept. The modules that hold these come first,
            then those whose weights differ most.
        sets: What to put back together; none before single parts have been.
    """

    window: int
    windows: int
    modules: int
    layers: int
    lost: tuple[WeightAddress, ...] = ()
    sets: tuple[RestoredSet, ...] = ()


def plan_recovery(result: ModelResult, policy: Policy) -> RecoveryPlan | None:
    """Return what to put back next into a judged model; `None` where nothing more is asked for.

    A search begins where perplexity is not within its margin, the loss on the first text is certain, and putting
    back the super weights, or all critical scalars that were not kept, is not certain to recover 80 % of it.
    Single parts come first. Then, step by step, each of the two best others is put back together with the set that
    recovers most so far (`trace_path`), until that is certain to recover 80 %, nothing is added, or there are as
    many parts as the policy allows. Sets of more than a third of all modules are not tried: to leave out as many
    would be no exception. Where a whole kind of modules or layer will do, the single modules of it that recover
    something are tried in its place.

    Args:
        result: The model, its verdicts included.
        policy: How many parts, and how far a super weight may be from the parent's.
    """
    descent = result.descent
    asked = any(
        verdict.check == perplexity_ratio.id and verdict.status in (Status.FAIL, Status.INCONCLUSIVE)
        for verdict in result.verdicts
    )
    if descent is None or not asked or not policy.descent.modules:
        return None
    theirs, ours = descent.parent, result.model
    if (theirs.layers, theirs.hidden_size) != (ours.layers, ours.hidden_size):
        return None
    context = CheckContext(perplexity_ratio, result, policy)
    first = list_searches(context, policy.checks[PerplexityRatioLimits].maximum_ratio)[0]
    limit = policy.checks[SuperWeightRetainedLimits].maximum_error
    cuts = [text.protocol for text in descent.texts if text.protocol.corpus == result.protocol.corpus]
    window = min(_WINDOW, max(cut.window for cut in cuts))
    plan = RecoveryPlan(
        window=window,
        windows=max(policy.minimum_windows, _TOKENS // window),
        modules=policy.descent.modules,
        layers=policy.descent.layers,
        lost=tuple(weight.address for weight in descent.super_weights if _is_lost(weight, limit)),
    )
    if descent.recovery is None:
        harm = first.pair.compare(context)
        certain = is_certain(harm) and harm.status is not EstimateStatus.TOO_FEW
        return plan if certain and first.healing is None and first.healing_scalars is None else None
    sets = tuple(_list_next(first, policy.descent.parts))
    return plan.model_copy(update={"sets": sets}) if sets else None


def _list_next(search: Search, most: int) -> Iterator[RestoredSet]:
    """Yield the sets to try next: with one more part, or with fewer modules where that heals already."""
    tried = {one.arm for one in search.recoveries}
    if search.healing is not None:
        parts = tuple(_list_members(search.recoveries, search.healing))[:most]
        if len(parts) > 1 and (smaller := RestoredSet(parts=parts)) not in tried:
            yield smaller
        return
    if not search.path:
        return
    last = search.path[-1]
    beside = [
        one
        for one in search.recoveries
        if len(one.parts) == 1 and _adds(one, last) and search.is_few(len({*one.modules, *last.modules}))
    ]
    best = sorted(beside, key=lambda one: -one.score)[:_WIDTH]
    sets = [RestoredSet(parts=(*last.parts, *one.parts)) for one in best]
    if len(last.parts) < most and not tried & set(sets):
        yield from sets


def _list_members(recoveries: Sequence[Recovery], healing: Recovery) -> Iterator[RestoredPart]:
    """Yield the parts of a set, and in the place of each kind or layer its modules that recover something."""
    for part in healing.parts:
        if not isinstance(part, RestoredKind | RestoredLayer):
            yield part
            continue
        [group] = [one for one in recoveries if one.arm == part]
        members = [one for one in recoveries if isinstance(one.arm, RestoredModule) and one.score > 0]
        members = [one for one in members if set(one.modules) <= set(group.modules)]
        yield from (one.parts[0] for one in sorted(members, key=lambda one: -one.score))


def _adds(one: Recovery, last: Recovery) -> bool:
    """Whether a part holds something that was not put back yet, and lacks something that was."""
    theirs, ours = set(one.modules), set(last.modules)
    return not theirs <= ours and not ours <= theirs


def _is_lost(weight: RetainedWeight, limit: float) -> bool:
    error = weight.relative_error
    return error is None or not abs(error) <= limit
