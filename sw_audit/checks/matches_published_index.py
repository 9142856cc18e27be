"""Whether the located super weights are those that others have published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import Need, check
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.location import SuperWeight
from sw_audit.record.published import TRUST, Impact, Lookup, PublishedWeight, Trust
from sw_audit.record.verdict import Finding, Status, Verdict

_LOAD_BEARING = (Impact.ALONE, Impact.JOINTLY)


class MatchesPublishedIndexLimits(Limits):
    """Limits of `matches-published-index`.

    Attributes:
        minimum_trust: A published coordinate counts if one of its sources is trusted at least so much (low,
            medium-low, medium, medium-good, good, high). Below medium are coordinates picked by magnitude,
            or copied from another model.
    """

    minimum_trust: Trust = "medium"


@check(
    id="matches-published-index",
    order=150,
    title="The located super weights are the published ones",
    meaning="Others have found this model's super weights: what was made from it should still have them there.",
    quantity="published coordinates found",
    fails="no published coordinate that decides is located",
    limits=MatchesPublishedIndexLimits,
    level="gate",
    unit="count",
    side="at least",
    needs=frozenset({Need.PUBLISHED}),
)
def matches_published_index(context: CheckContext) -> Verdict:
    """Rule of `matches-published-index`.

    The published coordinates that decide are those that bind: scalars whose loss, alone or with their set, is
    published to be a collapse, and local findings of the user's own index. If a model has none that bind, its
    minor ones decide, or else its unmeasured ones. Rows and columns alone, what has been refuted, and what no
    source of `minimum_trust` backs are reported and decide nothing, and so are scalars of any parameter, given by
    `index`: what a search for those found is told.

    PASS where each that decides is located. FAIL where none is, if they bind. Everything between is
    INCONCLUSIVE: some are located, which another prompt or a wider set may explain; or none is, but none
    binds, or they are those of the model that this one was made from. SKIPPED where the index has no entry, or
    nothing that decides, and where none is located in a checkpoint that is, or looks, rotated. Located scalars
    that are not published are reported. Counting is exact, so there is no interval.
    """
    lookup = context.result.published
    if lookup is None:
        return context.conclude(
            Status.INCONCLUSIVE,
            "The model was not looked up in the index of published coordinates.",
            remedy="Run the audit again with this check selected.",
        )
    if lookup.model is None:
        return context.skip(f"There is nothing to compare with: {lookup.because}{_suggest(lookup)}.")
    trust = context.limits(MatchesPublishedIndexLimits).minimum_trust
    deciding = _choose_deciding(lookup, trust)
    located = context.result.location.super_weights
    search = context.result.critical
    findings = (*_follow_published(lookup, deciding, located, search), *_follow_located(lookup, located))
    entry = f"the entry {lookup.model.id} ({lookup.because})"
    if not deciding:
        return context.skip(f"Of {entry} nothing decides: {_say_why_none(lookup)}.", findings)
    return _conclude(context, lookup, deciding, findings)


def _suggest(lookup: Lookup) -> str:
    if not lookup.nearest:
        return ""
    return (
        f" (going by names it may be {' or '.join(lookup.nearest)}, which decides nothing: "
        f'`index = "{lookup.nearest[0]}"` in the policy does)'
    )


def _conclude(
    context: CheckContext, lookup: Lookup, deciding: Sequence[PublishedWeight], findings: Sequence[Finding]
) -> Verdict:
    located = context.result.location.super_weights
    present = [weight for weight in deciding if _is_located(weight, located)]
    missing = [weight for weight in deciding if weight not in present]
    binding = _binds(deciding[0], lookup)
    entry = lookup.model.id if lookup.model else ""
    words = f"{len(present)} of {len(deciding)} deciding coordinates of {entry} ({lookup.because}) are located"
    rotation = context.result.location.rotation
    if not present and rotation is not None:
        return context.skip(f"{words}, and {rotation}.", findings)
    if not missing:
        status = Status.PASS
    else:
        words += f"; missing: {', '.join(str(weight) for weight in missing)}"
        status = Status.FAIL if not present and binding and not lookup.inherited else Status.INCONCLUSIVE
    if not present and lookup.inherited:
        words += "; they are published for the model that this one was made from, not for this one"
    elif not present and not binding:
        words += "; no source says that the model cannot do without them"
    own = f" --file {context.policy.index}" if context.policy.index else ""
    remedy = (
        f"Compare `sw-audit locate` with `sw-audit index {entry}{own}`: what made this model has moved or lost "
        'them, or the prompt does not show them. If another entry applies, set `index = "..."` for this model in '
        'the policy, or "none".'
    )
    return context.conclude(
        status,
        f"{words}.",
        remedy=remedy,
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(present))),
        limit=float(len(deciding)),
        findings=findings,
        measured=False,
    )


def _choose_deciding(lookup: Lookup, trust: Trust) -> tuple[PublishedWeight, ...]:
    """Choose the published scalars of the strongest kind that there is."""
    weights = lookup.model.weights if lookup.model else ()
    standing = [
        weight
        for weight in weights
        if weight.is_scalar and weight.bearing is not Impact.REFUTED and _is_trusted(weight, lookup, trust)
    ]
    kinds = (
        [weight for weight in standing if _binds(weight, lookup)],
        [weight for weight in standing if weight.bearing is Impact.MINOR],
        standing,
    )
    return tuple(next((kind for kind in kinds if kind), ()))


def _binds(weight: PublishedWeight, lookup: Lookup) -> bool:
    cited = [lookup.cite(key) for key in weight.sources]
    own = any(source is not None and source.finding is not None for source in cited)
    return weight.bearing in _LOAD_BEARING or own


def _is_trusted(weight: PublishedWeight, lookup: Lookup, least: Trust) -> bool:
    cited = [lookup.cite(key) for key in weight.sources]
    return any(source is not None and TRUST.index(source.trust) >= TRUST.index(least) for source in cited)


def _is_located(weight: PublishedWeight, located: Sequence[SuperWeight]) -> bool:
    return any(_place(scalar) == weight.coordinate for scalar in located)


def _place(weight: SuperWeight) -> tuple[int, int, int, int | None]:
    return weight.layer, weight.row, weight.column, weight.expert


def _follow_published(
    lookup: Lookup,
    deciding: Sequence[PublishedWeight],
    located: Sequence[SuperWeight],
    search: CriticalSearch | None,
) -> Iterator[Finding]:
    for weight in lookup.model.weights if lookup.model else ():
        there = _is_located(weight, located)
        decides = weight in deciding
        status = (Status.PASS if there else Status.FAIL) if decides else Status.SKIPPED
        what = "located" if there else _say_absent(weight, located)
        if weight.scalar is not None:
            what = _say_searched(weight.scalar, search)
        cited = ", ".join(weight.sources)
        aside = "" if decides else f"; it decides nothing ({_say_why_not(weight)})"
        yield Finding(
            label=f"published: {weight}",
            status=status,
            observed=float(there) if weight.is_scalar else None,
            because=f"{what}; bearing {weight.bearing}, published by {cited}{aside}",
        )


def _say_absent(weight: PublishedWeight, located: Sequence[SuperWeight]) -> str:
    near = [f"{_name(one)} ({kinship})" for one in located if (kinship := _find_kinship(weight, one))]
    head = "not located" if weight.is_scalar else "not a full coordinate"
    return f"{head}, but {', '.join(near)} is" if near else head


def _say_searched(address: ScalarAddress, search: CriticalSearch | None) -> str:
    """Say what a search for scalars that matter found of one, of whatever parameter."""
    if search is None:
        return "nobody searched for it"
    found = next((scalar for scalar in search.scalars if scalar.address == address), None)
    if found is None:
        return "no candidate of the search"
    ratio = "" if found.effect is None or found.effect.ratio is None else f", perplexity x{found.effect.ratio:.4g}"
    return f"found to matter ({found.kind}{ratio})" if found.kind else f"tried, and not found to matter{ratio}"


def _find_kinship(weight: PublishedWeight, one: SuperWeight) -> str | None:
    """Say what a located scalar has in common with a published one."""
    same_layer = weight.layer == one.layer
    if weight.row is not None and weight.row == one.row:
        return "same row" if same_layer else "same row, another layer"
    if weight.column is not None and weight.column == one.column and (same_layer or weight.layer is None):
        return "same column"
    return None


def _follow_located(lookup: Lookup, located: Sequence[SuperWeight]) -> Iterator[Finding]:
    published = lookup.model.weights if lookup.model else ()
    for one in located:
        known = next((weight for weight in published if weight.coordinate == _place(one)), None)
        kin = [f"{_find_kinship(weight, one)} as {weight}" for weight in published if _find_kinship(weight, one)]
        if known is not None:
            words = f"published, bearing {known.bearing}"
        else:
            words = f"new: {', '.join(kin)}" if kin else "new: no published coordinate shares its row or column"
        yield Finding(label=f"located: {_name(one)}", status=Status.SKIPPED, observed=one.value, because=words)


def _name(weight: SuperWeight) -> str:
    expert = "" if weight.expert is None else f"expert {weight.expert}, "
    return f"layer {weight.layer} [{expert}{weight.row}, {weight.column}]"


def _say_why_not(weight: PublishedWeight) -> str:
    if weight.scalar is not None:
        return "it is published as a scalar that matters, and not as a super weight"
    if not weight.is_scalar:
        return "its coordinate is not known in full"
    if weight.bearing is Impact.REFUTED:
        return weight.note or "refuted"
    return "weaker than others, or its sources are not trusted enough"


def _say_why_none(lookup: Lookup) -> str:
    model = lookup.model
    if model is None or not model.weights:
        return "it names no coordinate"
    if all(weight.scalar is not None for weight in model.weights):
        return "its scalars are not published as super weights"
    if not any(weight.is_scalar for weight in model.weights):
        return "it knows rows, columns or layers, but no scalar in full"
    if all(weight.bearing is Impact.REFUTED for weight in model.weights if weight.is_scalar):
        return "its scalars are known false positives"
    return "no source of its scalars is trusted enough"
