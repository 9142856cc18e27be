"""Whether the parent's critical scalars are still there, wherever they are."""

from __future__ import annotations

from sw_audit.checks.advice import LeftOut, paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.perplexity_ratio import PerplexityRatioLimits, perplexity_ratio
from sw_audit.checks.recovery import Search, list_searches
from sw_audit.checks.registry import Need, check
from sw_audit.record.critical import CriticalScalar
from sw_audit.record.descent import Descent, RetainedScalar
from sw_audit.record.verdict import Finding, Status, Verdict, worst_status

AGAIN = "Run the audit again with this check selected."


class CriticalScalarsRetainedLimits(Limits):
    """Limits of `critical-scalars-retained`.

    Attributes:
        maximum_error: Largest relative error of a critical scalar, of its value as it is applied; as of
            `super-weight-retained`.
    """

    maximum_error: Share = 0.25


@check(
    id="critical-scalars-retained",
    order=185,
    title="The parent's critical scalars are still there, wherever they are",
    meaning="Single gains of norms, biases and entries of the embedding can carry a model as super weights do; "
    "training, merging, pruning and a flipped bit reach them.",
    quantity="relative error",
    fails="one is off by more than 25 %; sign, cost in the parent and what putting it back recovers are told",
    limits=CriticalScalarsRetainedLimits,
    measured=frozenset({"maximum_error"}),
    level="gate",
    unit="share",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.CRITICAL}),
)
def critical_scalars_retained(context: CheckContext) -> Verdict:
    """Rule of `critical-scalars-retained`: the relative error of each of the parent's critical scalars, exactly.

    They are those that zeroing shows to matter, and the located super weights that are not inert, in whatever
    parameter; the search on the parent finds them. A value that is not finite fails, one that cannot be read is
    inconclusive. What one costs zeroed in the parent, and what putting it back here recovers, is told.
    """
    descent, searched = context.descent, context.descent.critical
    if searched is None:
        because = (
            "The parent was not searched for the scalars that matter; a run that opens both models does that."
        )
        return context.skip(because)
    limit = context.limits(CriticalScalarsRetainedLimits).maximum_error
    if searched.critical and not descent.critical_scalars:
        return context.conclude(
            Status.INCONCLUSIVE, "The parent's critical scalars were not looked up.", remedy=AGAIN
        )
    if not descent.critical_scalars:
        told = f"none of {searched.candidates:,} scalars that were tried, of {searched.ranked:,} ranked"
        floor = write_number(searched.minimum_ratio)
        return context.conclude(
            Status.PASS,
            f"The parent has no critical scalar: {told}, multiplies its perplexity by {floor} where it is zeroed.",
            limit=limit,
        )
    search = next(iter(list_searches(context, context.limits(PerplexityRatioLimits).maximum_ratio)))
    known = {scalar.address: scalar for scalar in searched.scalars}
    held = [
        hold_scalar(scalar, limit, *tell_cost(known.get(scalar.address)), *_tell_recovery(search, scalar))
        for scalar in descent.critical_scalars
    ]
    status = worst_status(finding.status for finding in held)
    # They are in the order of what they cost: of several that moved the first is told.
    first = next(finding for finding in held if finding.status is status)
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0) if status is Status.PASS else first
    lost = [
        scalar
        for scalar, one in zip(descent.critical_scalars, held, strict=True)
        if one.status is worst.status is not Status.PASS
    ]
    others = f"; {len(lost) - 1} more of {len(held)} likewise" if len(lost) > 1 else ""
    return context.conclude(
        worst.status,
        f"{worst.label} {worst.because}{others}; a relative error of at most {write_number(limit)} is allowed.",
        remedy=_advise(context, search, worst, lost),
        paste=paste_ignore(_leave_out(descent, lost)) if worst.status is Status.FAIL else (),
        figure=worst,
        limit=limit,
        findings=held,
        measured=False,
    )


def hold_scalar(scalar: RetainedScalar, limit: float, *facts: str) -> Finding:
    """Hold one scalar against what it was, as it is applied, and tell further facts of it."""
    label, error, told = str(scalar.address), scalar.relative_error, "".join(f"; {fact}" for fact in facts)
    if scalar.value is None or error is None:
        status = Status.INCONCLUSIVE if scalar.finite else Status.FAIL
        fault = "cannot be read" if scalar.finite else "is not finite"
        because = f"was {write_number(scalar.parent)} and {fault}{told}"
        return Finding(label=label, status=status, limit=limit, because=because)
    turned = " and its sign has turned" if scalar.value * scalar.parent < 0 else ""
    return Finding(
        label=label,
        status=hold_exactly(abs(error), high=limit),
        observed=abs(error),
        limit=limit,
        because=f"was {write_number(scalar.parent)} and is {write_number(scalar.value)}, "
        f"{write_number(100 * error)} percent off{turned}{told}",
    )


def tell_cost(scalar: CriticalScalar | None, whose: str = "the parent's") -> tuple[str, ...]:
    """Tell what zeroing a scalar costs by itself, if that was measured."""
    if scalar is None or scalar.effect is None:
        return ()
    if (ratio := scalar.effect.ratio) is None:
        return (f"zeroed alone it leaves {whose} perplexity not finite",)
    return (f"zeroed alone it multiplies {whose} perplexity by {write_number(ratio)}",)


def _tell_recovery(search: Search, scalar: RetainedScalar) -> tuple[str, ...]:
    recovery = search.find_scalars(scalar.address)
    return () if recovery is None else (f"with it put back {recovery.told}",)


def _leave_out(descent: Descent, lost: list[RetainedScalar]) -> LeftOut:
    """Return the matrices of decoder layers that hold scalars; nothing else is quantized."""
    searched = descent.critical.scalars if descent.critical else ()
    inside = {scalar.address for scalar in searched if scalar.layer is not None}
    inside |= {weight.scalar for weight in descent.parent_location.super_weights}
    held = [one.address.parameter for one in lost if one.address in inside and len(one.address.index) > 1]
    return LeftOut(modules=tuple(dict.fromkeys(name.removesuffix(".weight") for name in held)))


def _advise(context: CheckContext, search: Search, worst: Finding, lost: list[RetainedScalar]) -> str:
    if worst.status is Status.INCONCLUSIVE:
        return "Look at how this parameter is stored, and whether it has another name here than in the parent."
    descent, left_out = context.descent, _leave_out(context.descent, lost)
    names = ", ".join(dict.fromkeys(one.address.parameter for one in lost))
    stored = {scalar.address: scalar.value for scalar in descent.critical.scalars} if descent.critical else {}
    back = ", ".join(f"{one.address} = {stored.get(one.address, one.parent)!r}" for one in lost)
    rounded = f"; if it was rounded, {write_ignore(left_out)}" if left_out.modules else ""
    together = search.find_scalars()
    doubt = (
        f" This alone will not do: with {together.subject} put back {together.told}; see `{perplexity_ratio.id}`."
        if together is not None and not together.heals
        else ""
    )
    return (
        f"Put the parent's values back ({back}); freeze {names} while training, and leave it out of merging and "
        f"pruning{rounded}; or raise `{context.key('maximum_error')}`.{doubt}"
    )
