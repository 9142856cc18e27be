"""Whether activations fit the dtype: the residual stream, and what enters and leaves the down-projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Finding, Status, Verdict

MAXIMA = {
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}


_TOLD = ("float16", "bfloat16")
"""What the range would be in these is told of every model."""
_RESIDUAL = "residual stream"
_AGAIN = "Run the audit again with this check selected."


class RangeFitsDtypeLimits(Limits):
    """Limits of `range-fits-dtype`.

    Attributes:
        maximum_share: Largest magnitude over the dtype's largest number. Half leaves room for text that is not
            in the corpus: a factor of two. The residual stream of SmolLM2-135M-Instruct reaches 24,328 after layer
            11, which is 0.37 of float16's 65,504 and 7e-35 of bfloat16's; clipped at 3 standard deviations 11,422.
            The specimen's largest, 78.5, enters a down-projection: 0.0012 of float16's.
        dtype: The dtype that it will be run in; by default the one it was measured in.
    """

    maximum_share: Share = 0.5
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"] | None = Field(
        default=None, examples=["float16"]
    )


@check(
    id="range-fits-dtype",
    order=270,
    title="Activations fit the dtype",
    meaning="The largest activations, mostly in the residual stream, overflow first where a kernel computes in "
    "half precision.",
    quantity="share of the dtype's maximum",
    fails="the residual stream or a down-projection takes more than half of the dtype's range",
    limits=RangeFitsDtypeLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="any",
    needs=frozenset({Need.LAYERS}),
)
def range_fits_dtype(context: CheckContext) -> Verdict:
    """Rule of `range-fits-dtype`: the largest magnitude in the residual stream or at a down-projection.

    The residual stream is read after each layer, at every token, the first included: super activations mostly
    stand there. What enters and leaves the down-projections is read where it can be seen.

    It is held against the largest number of the dtype that the model was measured in, or of the one that the
    policy names because it will be run in that. What it would be in float16 and in bfloat16 is told. A maximum
    over the text, without an interval.
    """
    limits = context.limits(RangeFitsDtypeLimits)
    dtype = limits.dtype or context.result.model.dtype
    if dtype not in MAXIMA:
        return context.skip(f"The largest number of {dtype} is not known (`[checks.range-fits-dtype] dtype`).")
    broken = _find_overflow(context.result)
    if broken is not None:
        finding = Finding(label=broken, status=Status.FAIL, because="it is not finite")
        return _conclude_range(context, dtype, finding, [finding])
    peaks = _list_peaks(context.result)
    if not peaks:
        return context.conclude(Status.INCONCLUSIVE, "No range was measured.", remedy=_AGAIN)
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
    told = [_tell(label, peak, other, limits.maximum_share) for other in _TOLD if other != dtype]
    worst = decide_finding(held, key=lambda one: one.observed or 0.0)
    return _conclude_range(context, dtype, worst, [*held, *told])


def _find_overflow(result: ModelResult) -> str | None:
    """Name the first place that is not finite."""
    layers = result.descent.layers if result.descent else ()
    if (broken := next((one for one in layers if not one.finite), None)) is not None:
        return f"layer {broken.layer}"
    peaks = result.unedited.peaks if result.unedited else ()
    return next((f"layer {layer}, {_RESIDUAL}" for layer, peak in enumerate(peaks) if peak is None), None)


def _list_peaks(result: ModelResult) -> dict[str, float]:
    """Return the largest magnitude of every place that was seen."""
    measured = result.unedited
    if measured is None:
        return {}
    inputs, outputs = measured.down_inputs, measured.down_outputs
    if result.descent is not None:
        inputs = tuple(one.down_input for one in result.descent.layers)
        outputs = tuple(one.down_output for one in result.descent.layers)
    places = {
        _RESIDUAL: measured.peaks,
        "input of the down-projection": inputs,
        "output of the down-projection": outputs,
    }
    return {
        f"layer {layer}, {place}": peak
        for place, of_layers in places.items()
        for layer, peak in enumerate(of_layers)
        if peak is not None
    }


def _tell(label: str, peak: float, dtype: str, maximum: float) -> Finding:
    """Tell what the largest magnitude would be in a dtype that is not asked for."""
    share = peak / MAXIMA[dtype]
    follows = ": it overflows" if share > 1 else f", more than {write_number(maximum)}" if share > maximum else ""
    words = f"{label}: {write_number(share)} of what {dtype} holds{follows}"
    return Finding(label=f"in {dtype}", status=Status.SKIPPED, observed=share, because=words)


def _conclude_range(context: CheckContext, dtype: str, worst: Finding, findings: Sequence[Finding]) -> Verdict:
    held = "" if worst.limit is None else f"; at most {write_number(worst.limit)} of it is allowed"
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}{held}.",
        remedy=f"Do not run this layer in {dtype}: run it in bfloat16 or float32; or raise "
        "`[checks.range-fits-dtype] maximum_share`.",
        figure=worst if worst.observed is not None else None,
        limit=worst.limit,
        findings=findings,
    )
