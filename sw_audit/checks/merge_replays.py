"""Whether the parent with its adapter merged in is the model that is said to be that."""

from __future__ import annotations

from sw_audit.checks.context import StaticContext
from sw_audit.checks.estimate import write_number
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.registry import Need, check
from sw_audit.record.files import ReplayedTensor
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."
_ERRORS = 5.0


class MergeReplaysLimits(Limits):
    """Limits of `merge-replays`.

    Attributes:
        maximum_ulps: Largest distance from what the merge gives, in units in the last place of its dtype. Of two
            roundings to nearest each is half a unit off; sums in another order made up 2.8 in float32 (matrices
            of 512 x 512, ranks 4 to 256), products that are rounded to 16 bits before they are added less.
        maximum_scale_error: How much more or less than the whole of the adapter's change a tensor may have, beyond
            five standard errors: where the change is small beside the weight, units in the last place do not tell.
    """

    maximum_ulps: Nonnegative = 4.0
    maximum_scale_error: Nonnegative = 0.01


@check(
    id="merge-replays",
    order=167,
    title="The parent with the adapter merged in is this model",
    meaning="A merge with another scale, another base or half of the adapter opens and answers like a good one.",
    quantity="units in the last place",
    fails="a tensor is farther than 4 from the merge done again, or one that the adapter leaves alone differs",
    limits=MergeReplaysLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.MERGE}),
    static=True,
    reads_files=True,
)
def merge_replays(context: StaticContext) -> Verdict:
    """Rule of `merge-replays`.

    FAIL where a tensor is more than `maximum_ulps` from what the merge gives, where it has more or less of the
    adapter's change than `maximum_scale_error` allows, where one that the adapter does not touch is not the
    parent's, or where the adapter has parts that stand for nothing in the model. Skipped where the policy names no
    adapter; INCONCLUSIVE where the merge cannot be done again.
    """
    model = next((one for one in context.policy.models if one.id == context.result.id), None)
    if model is None or model.adapter is None:
        return context.conclude(Status.SKIPPED, "The policy names no `adapter` that was merged into the parent.")
    merge = None if context.result.files is None else context.result.files.merge
    if merge is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody did the merge again.", remedy=_AGAIN)
    if merge.obstacle is not None:
        remedy = "Name the plain merged model and its plain base, or leave `adapter` out."
        return context.conclude(
            Status.INCONCLUSIVE, f"The merge was not done again: {merge.obstacle}.", remedy=remedy
        )
    limits = context.limits(MergeReplaysLimits)
    told = [(one.name, one.ulps, _describe(one), _holds(one, limits)) for one in merge.tensors]
    told += [(name, None, "the model has no such tensor", False) for name in merge.unplaced]
    findings = [
        Finding(
            label=name,
            status=Status.PASS if holds else Status.FAIL,
            observed=ulps,
            limit=limits.maximum_ulps,
            because=f"{words}.",
        )
        for name, ulps, words, holds in told
    ]
    if merge.base is not None:
        words = "The adapter names this as its base, whose files are not the parent's."
        findings.insert(0, Finding(label=merge.base, status=Status.SKIPPED, because=words))
    failed = [f"{name}: {words}" for name, _, words, holds in told if not holds]
    nothing = merge.touched == 0
    left_out = "".join(f"; {one.count} not compared: {one.because}" for one in merge.uncompared)
    because = f"{merge.equal} of {merge.compared} tensors are bit for bit what the merge gives"
    because += f", and the adapter touches {merge.touched}"
    if merge.base is not None:
        because += f"; the adapter names {merge.base} as its base, whose files are not the parent's"
    if failed:
        because += f"; {failed[0]}"
    elif nothing:
        because = "Nothing that the adapter changes was compared"
    worst = [one.ulps for one in merge.tensors]
    return context.conclude(
        Status.FAIL if failed else Status.INCONCLUSIVE if nothing else Status.PASS,
        f"{because}{left_out}.",
        remedy="Merge again, and compare base, adapter, scale and dtype with those of the merge that was shipped.",
        observed=None if None in worst else max((ulps for ulps in worst if ulps is not None), default=0.0),
        limit=limits.maximum_ulps,
        findings=findings,
    )


def _describe(one: ReplayedTensor) -> str:
    if one.ulps is None:
        return "its shape is not the one that the merge gives, or it is not finite"
    units = write_number(one.ulps)
    if not one.touched:
        return f"the adapter does not touch it, and it is {units} units in the last place from the parent's"
    words = f"it is {units} units in the last place from what the merge gives"
    return words if one.applied is None else f"{words}, with {write_number(one.applied)} of the adapter's change"


def _holds(one: ReplayedTensor, limits: MergeReplaysLimits) -> bool:
    if one.ulps is None or not one.touched or one.ulps > limits.maximum_ulps:
        return False
    if one.applied is None or one.uncertain is None:
        return one.applied is None
    return abs(one.applied - 1) <= max(limits.maximum_scale_error, _ERRORS * one.uncertain)
