"""The noise of a descendant's layers in the residual stream."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.registry import Need, check
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.record.descent import LayerError
from sw_audit.record.verdict import Finding, Status, Verdict

_LOOK_HERE = (
    "Look at what was done to the layer that is named: its scales, what it was calibrated on, whether its tensors "
    "are the right ones; give it more bits, or leave it out"
)


NOT_HELD = (
    "Give parent and descendant of one architecture, with as many layers of the same width, or run the audit "
    "again with this check selected."
)


class LayerErrorLimits(Limits):
    """Limits of `layer-error`, in decibels of noise to signal in the residual stream.

    Attributes:
        maximum_noise: Largest noise-to-signal after any layer: 0 dB is noise as large as the signal. The
            specimen's sound copies are at -5 dB and below, those that lost a super weight or its neighbours
            between -2 and +5 dB.
        maximum_jump: How far one layer's own noise may be above the median layer's: up to 8 dB in sound copies, 12
            where one scalar has spoilt the scale of its layer, or one layer has half the bits of the others.
        floor: Noise below this counts as this. Eight bits are at -40 dB: beside a layer so quiet, a sound one of
            four bits must not stand out.
    """

    maximum_noise: float = -3.0
    maximum_jump: Nonnegative = 10.0
    floor: float = -30.0


@check(
    id="layer-error",
    order=260,
    title="No layer stands out in its error",
    meaning="Where noise jumps from one layer to the next, that layer was compressed badly.",
    quantity="worst jump in noise-to-signal, dB",
    fails="noise to signal is above -3 dB anywhere, or what one layer adds is more than 10 dB above the median "
    "layer's",
    limits=LayerErrorLimits,
    level="gate",
    unit="decibels",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.LAYERS}),
)
def layer_error(context: CheckContext) -> Verdict:
    """Rule of `layer-error`: the noise in the residual stream after each layer, and what each adds by itself.

    Two things are held. The noise after any layer may not come near the signal. And no layer may stand out: its
    own noise (the descendant's layer on the parent's input), over its signal, is held against the median of all
    layers, so that noise which earlier layers made is not laid to a later one. Sums over the text, without an
    interval. A layer that is not finite fails, and the first such is named.
    """
    layers, limits = context.descent.layers, context.limits(LayerErrorLimits)
    if not layers:
        because = "The layers of the two were not held against each other."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=NOT_HELD)
    broken = next((one for one in layers if one.noise is None), None)
    if broken is not None:
        finding = Finding(label=f"layer {broken.layer}", status=Status.FAIL, because="its output is not finite")
        return _conclude(context, finding, [finding], alone=False)
    level = [_hold_level(layer, limits) for layer in layers]
    own = _hold_own(layers, limits)
    # A layer that stands out is told before the level: it says where to look.
    outlying = [finding for finding in own if finding.status is Status.FAIL]
    deciding = outlying or [finding for finding in level if finding.observed is not None] or level
    worst = decide_finding(deciding, key=lambda finding: finding.observed or 0.0)
    return _conclude(context, worst, [*own, *level], alone=bool(outlying))


def _look_first() -> str:
    return (
        f"Look at `{super_weight_retained.id}` first: a scalar that is lost in an early layer makes noise in "
        "later ones; then give the layers with the most noise of their own more bits"
    )


def measure_decibels(noise: float | None, signal: float) -> float | None:
    """Return 10 log10(noise / signal), in decibels; `None` where there is no noise, or either is missing."""
    if noise is None or noise <= 0 or signal <= 0:
        return None
    return 10 * math.log10(noise / signal)


def _hold_level(one: LayerError, limits: LayerErrorLimits) -> Finding:
    decibels = measure_decibels(one.noise, one.signal)
    status = Status.PASS if decibels is None else hold_exactly(decibels, high=limits.maximum_noise)
    words = "no noise" if decibels is None else f"noise is {write_number(decibels)} dB to the signal"
    label = f"after layer {one.layer}"
    return Finding(label=label, status=status, observed=decibels, limit=limits.maximum_noise, because=words)


def _hold_own(layers: Sequence[LayerError], limits: LayerErrorLimits) -> list[Finding]:
    """Hold each layer's own noise against the median of all that make any."""
    own = {one.layer: measure_decibels(one.own_noise, one.signal) for one in layers}
    noisy = [max(decibels, limits.floor) for decibels in own.values() if decibels is not None]
    if not noisy:
        return []
    # Layers that were left as they are make none, and pull the usual down to the floor.
    usual = statistics.median([*noisy, *[limits.floor] * (len(own) - len(noisy))])
    findings = []
    for layer, decibels in own.items():
        jump = decibels - usual if decibels is not None else 0.0
        words = "it adds no noise of its own"
        if decibels is not None:
            words = f"it adds noise of {write_number(decibels)} dB, the usual is {write_number(usual)} dB"
        findings.append(
            Finding(
                label=f"layer {layer} by itself",
                status=hold_exactly(jump, high=limits.maximum_jump),
                observed=jump,
                limit=limits.maximum_jump,
                because=words,
            )
        )
    return findings


def _conclude(context: CheckContext, worst: Finding, findings: Sequence[Finding], *, alone: bool) -> Verdict:
    """Conclude from the worst finding, which is about what a layer adds by itself (`alone`) or about the level."""
    key = f"[checks.layer-error] {'maximum_jump' if alone else 'maximum_noise'}"
    held = "" if worst.limit is None else f"; at most {write_number(worst.limit)} dB is allowed"
    above = f", {write_number(worst.observed)} dB above" if alone and worst.observed is not None else ""
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}{above}{held}.",
        remedy=f"{_LOOK_HERE if alone or worst.limit is None else _look_first()}; or raise `{key}`.",
        figure=worst if worst.observed is not None else None,
        limit=worst.limit,
        findings=findings,
        quantity="own noise above the median layer's, dB" if alone else "noise to signal, dB",
    )
