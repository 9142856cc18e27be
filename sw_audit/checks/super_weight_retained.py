"""Whether the parent's super weights are still there."""

from __future__ import annotations

from sw_audit.checks.advice import LeftOut, paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.pairs import say_none
from sw_audit.checks.perplexity_ratio import PerplexityRatioLimits, perplexity_ratio
from sw_audit.checks.quantization_as_configured import quantization_as_configured
from sw_audit.checks.recovery import list_searches, name_modules
from sw_audit.checks.registry import check
from sw_audit.record.descent import RetainedWeight
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."


# A row rounded to nothing is off by all of its norm.
_ALL = 0.9


_LOST = ": where this scalar sets the scale, its neighbours are lost; hold it out, or use smaller groups"


class SuperWeightRetainedLimits(Limits):
    """Limits of `super-weight-retained`.

    Attributes:
        maximum_error: Largest relative error of a super weight. Scaled to 0.75 two published models show no harm,
            below 0.5 they do; the specimen's perplexity grows 1.002 times at 0.75 and 1.3 times at 0.5.
    """

    maximum_error: Share = 0.25


@check(
    id="super-weight-retained",
    order=180,
    title="The parent's super weights are still there",
    meaning="These few scalars carry the model: their value, sign and neighbours tell whether a compressor kept "
    "them.",
    quantity="largest relative error",
    fails="one is off by more than 25 %; sign, rest of row and column are told",
    limits=SuperWeightRetainedLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="descendant",
)
def super_weight_retained(context: CheckContext) -> Verdict:
    """Rule of `super-weight-retained`: the relative error of each of the parent's super weights, exactly.

    An error above 1 is a scalar whose sign has turned, or that has more than doubled. A value that is not finite
    fails, one that cannot be read is inconclusive. The errors of the rest of its row and column are reported: a
    scalar that sets the scale may be kept while all its neighbours are lost.
    """
    descent = context.descent
    if not descent.parent_location.super_weights:
        return context.skip(say_none(descent.parent_location, "weight"))
    if not descent.super_weights:
        return context.conclude(
            Status.INCONCLUSIVE, "The parent's super weights were not looked up.", remedy=_AGAIN
        )
    limit = context.limits(SuperWeightRetainedLimits).maximum_error
    held = [_hold_weight(weight, limit) for weight in descent.super_weights]
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0)
    neighbours = [one for weight in descent.super_weights for one in _follow_neighbours(weight)]
    lost = [weight for weight, one in zip(descent.super_weights, held, strict=True) if one.status is worst.status]
    modules = name_modules([weight.address for weight in lost])
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}; a relative error of at most {write_number(limit)} is allowed.",
        remedy=_advise_weights(context, worst, lost, modules),
        paste=paste_ignore(LeftOut(modules=modules)) if worst.status is Status.FAIL else (),
        figure=worst,
        limit=limit,
        findings=[*held, *neighbours],
        measured=False,
    )


def _hold_weight(weight: RetainedWeight, limit: float) -> Finding:
    label, error = str(weight.address), weight.relative_error
    if weight.value is None or error is None:
        status = Status.INCONCLUSIVE if weight.finite else Status.FAIL
        fault = "cannot be read" if weight.finite else "is not finite"
        because = f"what is {write_number(weight.parent)} in the parent {fault} here"
        return Finding(label=label, status=status, limit=limit, because=because)
    turned = " and its sign has turned" if weight.value * weight.parent < 0 else ""
    return Finding(
        label=label,
        status=hold_exactly(abs(error), high=limit),
        observed=abs(error),
        limit=limit,
        because=f"{write_number(weight.parent)} has become {write_number(weight.value)}, "
        f"{write_number(100 * error)} percent off{turned}",
    )


def _follow_neighbours(weight: RetainedWeight) -> list[Finding]:
    errors = {"row": weight.row_error, "column": weight.column_error}
    return [
        Finding(
            label=f"{weight.address}, rest of its {name}",
            status=Status.SKIPPED,
            observed=error,
            because=f"off by {write_number(error)} of its norm{_LOST if error >= _ALL else ''}",
        )
        for name, error in errors.items()
        if error is not None
    ]


def _advise_weights(
    context: CheckContext, worst: Finding, lost: list[RetainedWeight], modules: tuple[str, ...]
) -> str:
    if worst.status is Status.INCONCLUSIVE:
        return f"Look at `{quantization_as_configured.id}`: it says how this matrix is stored."
    key = f"`{context.key('maximum_error')}`"
    alone = _doubt_alone(context)
    back = ", ".join(f"{weight.address} = {weight.parent!r}" for weight in lost)
    if context.result.quantization is None:
        return (
            f"Put the parent's values back ({back}), and keep them from being trained or pruned; if it was "
            f"rounded, {write_ignore(LeftOut(modules=modules))}; or raise {key}.{alone}"
        )
    advice = write_ignore(LeftOut(modules=modules))
    return f"{advice[0].upper()}{advice[1:]}; or raise {key}.{alone}"


def _doubt_alone(context: CheckContext) -> str:
    """Say that the super weights are not all that was lost, where putting them back recovers less than 80 %."""
    searches = list_searches(context, context.limits(PerplexityRatioLimits).maximum_ratio)
    weights = next((search.weights for search in searches if search.weights is not None), None)
    if weights is None or weights.heals:
        return ""
    return f" This alone will not do: with {weights.subject} put back {weights.told}; see `{perplexity_ratio.id}`."
