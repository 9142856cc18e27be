"""How zeroing the super weights shifts probability to or from stop words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import Field

from sw_audit.checks.arms import prune_super_weights
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_least, hold_at_most, write_number
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.checks.stop_words import compare_masses
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.verdict import Side, Status, Verdict, worst_status


class StopwordShiftLimits(Limits):
    """Limits of `stopword-shift`: none by default, for the direction is not universal.

    Attributes:
        minimum_ratio: Stop-word mass pruned over not pruned, at least.
        maximum_ratio: The same, at most.
    """

    minimum_ratio: Ratio | None = Field(default=None, examples=[1.2])
    maximum_ratio: Ratio | None = Field(default=None, examples=[5.0])


@check(
    id="stopword-shift",
    order=90,
    title="How pruning shifts probability to or from stop words",
    meaning="Without its super weights a model falls back on words without meaning, in most families.",
    quantity="stop-word mass ratio",
    fails="reported; a limit only if the policy sets one",
    limits=StopwordShiftLimits,
    level="law",
    known="mass of stop words times 2 to 5 for Llama-7B and OLMo-7B, of most of them below 1 for "
    "Mistral-7B (Yu et al. 2024, figure 5)",
    needs_super_weight=True,
    arms=prune_super_weights,
)
def stopword_shift(context: CheckContext) -> Verdict:
    """Rule of `stopword-shift` (Yu et al. 2024, section 3.3).

    The direction is not universal (Mistral-7B gives less mass to most stop words), so the policy sets no
    limit by default. Then a ratio that is finite and has an interval is a PASS, which says no more than
    that it was measured: `because` says so and `limit` stays empty. A mass that is not finite fails, a
    missing arm or too few windows is inconclusive. Where no stop words were read it is skipped.
    """
    limits = context.limits(StopwordShiftLimits)
    estimate = _measure_shift(context)
    if estimate is None:
        return context.skip("No stop words are known for this text (`[corpus] stop_words`).")
    sides: tuple[tuple[float | None, Callable[[Estimate, float], Status], str, Side], ...] = (
        (limits.minimum_ratio, hold_at_least, "minimum_ratio", "at least"),
        (limits.maximum_ratio, hold_at_most, "maximum_ratio", "at most"),
    )
    held = [(hold(estimate, limit), limit, key, side) for limit, hold, key, side in sides if limit is not None]
    # Without a limit any finite ratio holds: only whether there is one is judged.
    status = worst_status(one for one, _, _, _ in held) if held else hold_at_least(estimate, 0.0)
    if estimate.status is EstimateStatus.NO_REFERENCE:
        status = Status.INCONCLUSIVE
    deciding = next((one for one in held if one[0] is status), None)
    written = [f"{key} {write_number(limit)}" for _, limit, key, _ in held]
    return context.conclude(
        status,
        f"{estimate.words}; {' and '.join(written) or 'reported, no limit is set'}.",
        remedy="Give `[corpus] stop_words` of this model's own language, so that it has a mass on them."
        if estimate.status is EstimateStatus.NO_REFERENCE
        else context.advise(
            status,
            estimate.status,
            failed="Read the pruned model's text: its words shift otherwise than expected; if that is known for "
            "this family, change or remove the limit in `[checks.stopword-shift]`.",
            key=context.key(deciding[2] if deciding else "minimum_ratio"),
        ),
        figure=estimate,
        limit=deciding[1] if deciding else None,
        side=deciding[3] if deciding else None,
    )


def _measure_shift(context: CheckContext) -> Estimate | None:
    baseline, pruned = context.find_measurement(BASELINE.purpose), context.find_measurement(PRUNED)
    if baseline is None or pruned is None:
        name = BASELINE.name if baseline is None else PRUNED.name
        return Estimate(EstimateStatus.MISSING, f"The arm {name!r} was not measured under this protocol")
    if baseline.stop_words is None or pruned.stop_words is None:
        return None
    return replace(compare_masses(context, baseline.stop_words, pruned.stop_words), arms=(PRUNED.name,))
