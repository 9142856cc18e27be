"""Rules on a descendant's layers beside its parent's: noise in the residual stream, and range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits_of_descent import LayerErrorLimits
from sw_audit.record.descent import LayerError
from sw_audit.record.verdict import Finding, Status, Verdict

MAXIMA = {
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}
"""Largest finite number of each dtype that activations may be in."""

_HALF = "float16"
_NOT_HELD = (
    "Give parent and descendant of one architecture, with as many layers of the same width, or run the audit "
    "again with this check selected."
)
_LOOK_HERE = (
    "Look at what was done to the layer that is named: its scales, what it was calibrated on, whether its tensors "
    "are the right ones; give it more bits, or leave it out"
)
_LOOK_FIRST = (
    "Look at `super-weight-retained` first: a scalar that is lost in an early layer makes noise in later ones; "
    "then give the layers with the most noise of their own more bits"
)


def measure_decibels(noise: float | None, signal: float) -> float | None:
    """Return 10 log10(noise / signal), in decibels; `None` where there is no noise, or either is missing."""
    if noise is None or noise <= 0 or signal <= 0:
        return None
    return 10 * math.log10(noise / signal)


def judge_layer_error(case: CheckContext) -> Verdict:
    """Rule of `layer-error`: the noise in the residual stream after each layer, and what each adds by itself.

    Two things are held. The noise after any layer may not come near the signal. And no layer may stand out: its
    own noise (the descendant's layer on the parent's input), over its signal, is held against the median of all
    layers, so that noise which earlier layers made is not laid to a later one. Sums over the text, without an
    interval. A layer that is not finite fails, and the first such is named.
    """
    layers, limits = case.descent.layers, case.policy.checks.layer_error
    if not layers:
        because = "The layers of the two were not held against each other."
        return case.conclude(Status.INCONCLUSIVE, because, remedy=_NOT_HELD)
    broken = next((one for one in layers if one.noise is None), None)
    if broken is not None:
        found = Finding(label=f"layer {broken.layer}", status=Status.FAIL, because="its output is not finite")
        return _conclude(case, found, [found])
    level = [_hold_level(one, limits) for one in layers]
    own = _hold_own(layers, limits)
    # A layer that stands out is told before the level: it says where to look.
    outlying = [one for one in own if one.status is Status.FAIL]
    told = outlying or [one for one in level if one.observed is not None] or level
    worst = decide_finding(told, key=lambda one: one.observed or 0.0)
    return _conclude(case, worst, [*own, *level])


def judge_range(case: CheckContext) -> Verdict:
    """Rule of `range-fits-dtype`: the largest magnitude that enters or leaves a down-projection.

    It is held against the largest number of the dtype that the descendant was measured in, or of the one that the
    policy names because it will be run in that. What it would be in float16 is reported. A maximum over the text,
    without an interval.
    """
    limits, layers = case.policy.checks.range_fits_dtype, case.descent.layers
    dtype = limits.dtype or case.evidence.model.dtype
    if dtype not in MAXIMA:
        return case.skip(f"The largest number of {dtype} is not known (`[checks.range-fits-dtype] dtype`).")
    broken = next((one for one in layers if not one.finite), None)
    if broken is not None:
        found = Finding(label=f"layer {broken.layer}", status=Status.FAIL, because="it is not finite")
        return _conclude_range(case, dtype, found, [found])
    peaks = {
        f"layer {one.layer}, {side}": peak
        for one in layers
        for side, peak in (("input", one.down_input), ("output", one.down_output))
        if peak is not None
    }
    if not peaks:
        because = "No down-projection's range was measured."
        return case.conclude(Status.INCONCLUSIVE, because, remedy=_NOT_HELD)
    held = [
        Finding(
            label=label,
            status=hold_exactly(peak / MAXIMA[dtype], high=limits.maximum_share),
            observed=peak / MAXIMA[dtype],
            limit=limits.maximum_share,
            because=f"up to {write_number(peak)}, {write_number(peak / MAXIMA[dtype])} of what {dtype} holds",
        )
        for label, peak in peaks.items()
    ]
    label, peak = max(peaks.items(), key=lambda pair: pair[1])
    share = peak / MAXIMA[_HALF]
    words = f"{label}: {write_number(share)} of what {_HALF} holds"
    reported = [Finding(label=f"in {_HALF}", status=Status.SKIPPED, observed=share, because=words)]
    worst = decide_finding(held, key=lambda one: one.observed or 0.0)
    return _conclude_range(case, dtype, worst, [*held, *(reported if dtype != _HALF else [])])


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
    usual = median([*noisy, *[limits.floor] * (len(own) - len(noisy))])
    found = []
    for layer, decibels in own.items():
        jump = decibels - usual if decibels is not None else 0.0
        words = "it adds no noise of its own"
        if decibels is not None:
            words = f"it adds noise of {write_number(decibels)} dB, the usual is {write_number(usual)} dB"
        found.append(
            Finding(
                label=f"layer {layer} by itself",
                status=hold_exactly(jump, high=limits.maximum_jump),
                observed=jump,
                limit=limits.maximum_jump,
                because=words,
            )
        )
    return found


def _conclude(case: CheckContext, worst: Finding, findings: Sequence[Finding]) -> Verdict:
    alone = "by itself" in worst.label
    key = f"[checks.layer-error] {'maximum_jump' if alone else 'maximum_noise'}"
    held = "" if worst.limit is None else f"; at most {write_number(worst.limit)} dB is allowed"
    above = f", {write_number(worst.observed)} dB above" if alone and worst.observed is not None else ""
    return case.conclude(
        worst.status,
        f"{worst.label}: {worst.because}{above}{held}.",
        remedy=f"{_LOOK_HERE if alone or worst.limit is None else _LOOK_FIRST}; or raise `{key}`.",
        figure=worst if worst.observed is not None else None,
        limit=worst.limit,
        findings=findings,
        quantity="own noise above the median layer's, dB" if alone else "noise to signal, dB",
    )


def _conclude_range(case: CheckContext, dtype: str, worst: Finding, findings: Sequence[Finding]) -> Verdict:
    held = "" if worst.limit is None else f"; at most {write_number(worst.limit)} of it is allowed"
    return case.conclude(
        worst.status,
        f"{worst.label}: {worst.because}{held}.",
        remedy=f"Do not run this layer in {dtype}: keep its down-projection in bfloat16 or float32; or raise "
        "`[checks.range-fits-dtype] maximum_share`.",
        figure=worst if worst.observed is not None else None,
        limit=worst.limit,
        findings=findings,
    )
