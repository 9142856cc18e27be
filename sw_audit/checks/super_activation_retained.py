"""Whether the parent's super activations are still there."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.layer_error import layer_error
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.pairs import say_none
from sw_audit.checks.registry import check
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.record.descent import RetainedActivation
from sw_audit.record.verdict import Finding, Side, Status, Verdict

_AGAIN = "Run the audit again with this check selected."


class SuperActivationRetainedLimits(Limits):
    """Limits of `super-activation-retained`.

    Attributes:
        minimum_ratio: Smallest value over the parent's, over layers. A super weight that is just within its own
            limit, at 0.75, leaves 0.71 of the specimen's activation, harmlessly; at 0.5 it leaves 0.43, and harms.
            Sound 4-bit copies and fine-tunes keep 0.9 to 1.13.
        maximum_ratio: Largest; as far above 1 as the smallest is below.
    """

    minimum_ratio: Ratio = 0.6
    maximum_ratio: Ratio = 1.67


@check(
    id="super-activation-retained",
    order=190,
    title="The parent's super activations are still there",
    meaning="Channel, token and magnitude of the activation that these scalars make, layer by layer.",
    quantity="smallest magnitude ratio",
    fails="in a layer it is below 0.6 or above 1.67 times the parent's; attention on it is told",
    limits=SuperActivationRetainedLimits,
    level="gate",
    side="at least",
    scope="descendant",
)
def super_activation_retained(context: CheckContext) -> Verdict:
    """Rule of `super-activation-retained`: its value over the parent's, layer by layer, on the locating prompt.

    Channel and token are the parent's, so an activation that has moved elsewhere is lost here. A turned sign is a
    negative ratio. Whether another channel has become louder at that token, and the attention that rests there,
    are reported.
    """
    descent = context.descent
    if not descent.parent_location.super_activations:
        return context.skip(say_none(descent.parent_location, "activation"))
    followed = [one for one in descent.super_activations if one.layers]
    if not followed:
        because = "The parent's super activations were not followed."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=_AGAIN)
    limits = context.limits(SuperActivationRetainedLimits)
    held = [one for activation in followed for one in _hold_activation(activation, limits)]
    worst = decide_finding(held, key=lambda finding: abs((finding.observed or 0.0) - 1))
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}; {write_number(limits.minimum_ratio)} to "
        f"{write_number(limits.maximum_ratio)} times the parent's is allowed.",
        remedy=f"Look at `{super_weight_retained.id}` first: the super weights make it. If these are kept, look "
        f"in `{layer_error.id}` for the first layer that stands out: what feeds them, or clips the residual "
        f"stream, has changed; or widen `{context.key('minimum_ratio')}` and `maximum_ratio`.",
        figure=worst,
        limit=worst.limit,
        findings=[*held, *(one for activation in followed for one in _follow_surroundings(activation))],
        quantity="largest magnitude ratio" if worst.side == "at most" else None,
        measured=False,
    )


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
    findings = []
    least, most = limits.minimum_ratio, limits.maximum_ratio
    smallest, largest = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    sides: tuple[tuple[str, int, float, Side, Status], ...] = (
        ("smallest", smallest, least, "at least", hold_exactly(ratios[smallest], low=least)),
        ("largest", largest, most, "at most", hold_exactly(ratios[largest], high=most)),
    )
    for what, layer, limit, side, status in sides:
        there, here = place[layer]
        findings.append(
            Finding(
                label=f"{label}, {what} ratio",
                status=status,
                observed=ratios[layer],
                limit=limit,
                side=side,
                because=f"after layer {layer} {write_number(there)} has become {write_number(here)}, "
                f"times {write_number(ratios[layer])}",
            )
        )
    return findings


def _follow_surroundings(activation: RetainedActivation) -> list[Finding]:
    label = f"channel {activation.channel}, token {activation.token}"
    quieter = [layer for layer, first in zip(activation.layers, activation.loudest, strict=True) if not first]
    findings = [
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
        findings.append(
            Finding(
                label=f"{label}, share of attention",
                status=Status.SKIPPED,
                observed=activation.sink,
                because=f"{words}{write_number(activation.sink)} here",
            )
        )
    return findings
