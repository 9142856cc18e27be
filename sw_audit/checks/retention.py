"""Rules on whether the parent's super weights and super activations are still there."""

from __future__ import annotations

from sw_audit.checks.advice import paste_ignore, write_ignore
from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits_of_descent import SuperActivationRetainedLimits
from sw_audit.checks.pairs import name_modules
from sw_audit.record.descent import RetainedActivation, RetainedWeight
from sw_audit.record.location import Location
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."
# A row rounded to nothing is off by all of its norm.
_ALL = 0.9
_LOST = ": where this scalar sets the scale, its neighbours are lost; hold it out, or use smaller groups"


def judge_retained_weights(case: CheckContext) -> Verdict:
    """Rule of `super-weight-retained`: the relative error of each of the parent's super weights, exactly.

    An error above 1 is a scalar whose sign has turned, or that has more than doubled. A value that is not finite
    fails, one that cannot be read is inconclusive. The errors of the rest of its row and column are reported: a
    scalar that sets the scale may be kept while all its neighbours are lost.
    """
    descent = case.descent
    if not descent.parent_location.super_weights:
        return case.skip(_say_none(descent.parent_location, "weight"))
    if not descent.super_weights:
        return case.conclude(Status.INCONCLUSIVE, "The parent's super weights were not looked up.", remedy=_AGAIN)
    limit = case.policy.checks.super_weight_retained.maximum_error
    held = [_hold_weight(weight, limit) for weight in descent.super_weights]
    worst = decide_finding(held, key=lambda finding: finding.observed or 0.0)
    neighbours = [one for weight in descent.super_weights for one in _follow_neighbours(weight)]
    lost = [weight for weight, one in zip(descent.super_weights, held, strict=True) if one.status is worst.status]
    modules = name_modules([weight.address for weight in lost])
    return case.conclude(
        worst.status,
        f"{worst.label}: {worst.because}; a relative error of at most {write_number(limit)} is allowed.",
        remedy=_advise_weights(case, worst, lost, modules),
        paste=paste_ignore(modules) if worst.status is Status.FAIL else (),
        figure=worst,
        limit=limit,
        findings=[*held, *neighbours],
        measured=False,
    )


def judge_retained_activations(case: CheckContext) -> Verdict:
    """Rule of `super-activation-retained`: its value over the parent's, layer by layer, on the locating prompt.

    Channel and token are the parent's, so an activation that has moved elsewhere is lost here. A turned sign is a
    negative ratio. Whether another channel has become louder at that token, and the attention that rests there,
    are reported.
    """
    descent = case.descent
    if not descent.parent_location.super_activations:
        return case.skip(_say_none(descent.parent_location, "activation"))
    followed = [one for one in descent.super_activations if one.layers]
    if not followed:
        because = "The parent's super activations were not followed."
        return case.conclude(Status.INCONCLUSIVE, because, remedy=_AGAIN)
    limits = case.policy.checks.super_activation_retained
    held = [one for activation in followed for one in _hold_activation(activation, limits)]
    worst = decide_finding(held, key=lambda finding: abs((finding.observed or 0.0) - 1))
    return case.conclude(
        worst.status,
        f"{worst.label}: {worst.because}; {write_number(limits.minimum_ratio)} to "
        f"{write_number(limits.maximum_ratio)} times the parent's is allowed.",
        remedy="Look at `super-weight-retained` first: the super weights make it. If these are kept, look in "
        "`layer-error` for the first layer that stands out: what feeds them, or clips the residual stream, has "
        "changed; or widen `[checks.super-activation-retained] minimum_ratio` and `maximum_ratio`.",
        figure=worst,
        limit=worst.limit,
        findings=[*held, *(one for activation in followed for one in _follow_surroundings(activation))],
        quantity="largest magnitude ratio" if worst.limit == limits.maximum_ratio else None,
        measured=False,
    )


def _say_none(location: Location, what: str) -> str:
    return f"The parent has no super {what} (outcome {location.outcome}): {location.because}."


def _hold_weight(weight: RetainedWeight, limit: float) -> Finding:
    label, error = str(weight.address), weight.relative_error
    if weight.value is None or error is None:
        status = Status.INCONCLUSIVE if weight.finite else Status.FAIL
        found = "cannot be read" if weight.finite else "is not finite"
        because = f"what is {write_number(weight.parent)} in the parent {found} here"
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
    case: CheckContext, worst: Finding, lost: list[RetainedWeight], modules: tuple[str, ...]
) -> str:
    if worst.status is Status.INCONCLUSIVE:
        return "Look at `quantization-as-configured`: it says how this matrix is stored."
    key = "`[checks.super-weight-retained] maximum_error`"
    back = ", ".join(f"{weight.address} = {weight.parent!r}" for weight in lost)
    if case.evidence.quantization is None:
        return (
            f"Put the parent's values back ({back}), and keep them from being trained or pruned; if it was "
            f"rounded, {write_ignore(modules)}; or raise {key}."
        )
    advice = write_ignore(modules)
    return f"{advice[0].upper()}{advice[1:]}; or raise {key}."


def _hold_activation(activation: RetainedActivation, limits: SuperActivationRetainedLimits) -> list[Finding]:
    """Hold the smallest ratio against one limit and the largest against the other."""
    label = f"channel {activation.channel}, token {activation.token}"
    ratios = {
        layer: here / there
        for layer, here, there in zip(activation.layers, activation.value, activation.parent, strict=True)
        if here is not None and there
    }
    lost = [layer for layer, here in zip(activation.layers, activation.value, strict=True) if here is None]
    if lost:
        because = f"after layer {lost[0]} it is not finite"
        return [Finding(label=label, status=Status.FAIL, limit=limits.minimum_ratio, because=because)]
    if not ratios:
        because = "the parent's own is zero in every layer"
        return [Finding(label=label, status=Status.INCONCLUSIVE, limit=limits.minimum_ratio, because=because)]
    place = dict(zip(activation.layers, zip(activation.parent, activation.value, strict=True), strict=True))
    found = []
    least, most = limits.minimum_ratio, limits.maximum_ratio
    smallest, largest = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    for what, layer, limit, status in (
        ("smallest", smallest, least, hold_exactly(ratios[smallest], low=least)),
        ("largest", largest, most, hold_exactly(ratios[largest], high=most)),
    ):
        there, here = place[layer]
        found.append(
            Finding(
                label=f"{label}, {what} ratio",
                status=status,
                observed=ratios[layer],
                limit=limit,
                because=f"after layer {layer} {write_number(there)} has become {write_number(here)}, "
                f"times {write_number(ratios[layer])}",
            )
        )
    return found


def _follow_surroundings(activation: RetainedActivation) -> list[Finding]:
    label = f"channel {activation.channel}, token {activation.token}"
    quieter = [layer for layer, first in zip(activation.layers, activation.loudest, strict=True) if not first]
    found = [
        Finding(
            label=f"{label}, layers in which it is the loudest channel",
            status=Status.SKIPPED,
            observed=len(activation.layers) - len(quieter),
            because=f"another channel is louder after layer {', '.join(map(str, quieter))}"
            if quieter
            else "it is the loudest channel at that token in every layer",
        )
    ]
    if activation.sink is not None and activation.sink_parent is not None:
        words = f"{write_number(activation.sink_parent)} of attention rests on it in the parent, "
        found.append(
            Finding(
                label=f"{label}, share of attention",
                status=Status.SKIPPED,
                observed=activation.sink,
                because=f"{words}{write_number(activation.sink)} here",
            )
        )
    return found
