"""Whether activations fit the dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import hold_exactly, write_number
from sw_audit.checks.layer_error import NOT_HELD
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.record.verdict import Finding, Status, Verdict

MAXIMA = {
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}


_HALF = "float16"


class RangeFitsDtypeLimits(Limits):
    """Limits of `range-fits-dtype`.

    Attributes:
        maximum_share: Largest down-projection input or output over the dtype's largest number. Half leaves room
            for text that is not in the corpus: a factor of two.
        dtype: The dtype that it will be run in; by default the one it was measured in.
    """

    maximum_share: Share = 0.5
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"] | None = Field(
        default=None, examples=["float16"]
    )


@check(
    id="range-fits-dtype",
    order=270,
    title="Activations of the down-projections fit the dtype",
    meaning="The largest activations overflow first where a kernel computes in half precision.",
    quantity="share of the dtype's maximum",
    fails="it takes more than half of the dtype's range",
    limits=RangeFitsDtypeLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.LAYERS}),
)
def range_fits_dtype(context: CheckContext) -> Verdict:
    """Rule of `range-fits-dtype`: the largest magnitude that enters or leaves a down-projection.

    It is held against the largest number of the dtype that the descendant was measured in, or of the one that the
    policy names because it will be run in that. What it would be in float16 is reported. A maximum over the text,
    without an interval.
    """
    limits, layers = context.limits(RangeFitsDtypeLimits), context.descent.layers
    dtype = limits.dtype or context.result.model.dtype
    if dtype not in MAXIMA:
        return context.skip(f"The largest number of {dtype} is not known (`[checks.range-fits-dtype] dtype`).")
    broken = next((one for one in layers if not one.finite), None)
    if broken is not None:
        finding = Finding(label=f"layer {broken.layer}", status=Status.FAIL, because="it is not finite")
        return _conclude_range(context, dtype, finding, [finding])
    peaks = {
        f"layer {one.layer}, {side}": peak
        for one in layers
        for side, peak in (("input", one.down_input), ("output", one.down_output))
        if peak is not None
    }
    if not peaks:
        because = "No down-projection's range was measured."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=NOT_HELD)
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
    return _conclude_range(context, dtype, worst, [*held, *(reported if dtype != _HALF else [])])


def _conclude_range(context: CheckContext, dtype: str, worst: Finding, findings: Sequence[Finding]) -> Verdict:
    held = "" if worst.limit is None else f"; at most {write_number(worst.limit)} of it is allowed"
    return context.conclude(
        worst.status,
        f"{worst.label}: {worst.because}{held}.",
        remedy=f"Do not run this layer in {dtype}: keep its down-projection in bfloat16 or float32; or raise "
        "`[checks.range-fits-dtype] maximum_share`.",
        figure=worst if worst.observed is not None else None,
        limit=worst.limit,
        findings=findings,
    )
