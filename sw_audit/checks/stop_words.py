"""The probability that two models give to stop words."""

from __future__ import annotations

from dataclasses import replace

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, write_interval, write_number
from sw_audit.checks.statistics import bound_ratio
from sw_audit.record.measurement import StopWordMass
from sw_audit.record.verdict import Sample


def compare_masses(
    context: CheckContext,
    before: StopWordMass,
    after: StopWordMass,
    names: tuple[str, str] = ("the unpruned model", "the pruned model"),
) -> Estimate:
    """Return the mass on stop words of one model over that of another at the same tokens, with its interval.

    Args:
        context: The context.
        before: The mass below the line.
        after: The mass above it.
        names: What the two are called.
    """
    count = min(len(before.tokens), len(after.tokens))
    before, after = before.first(count), after.first(count)
    base_mean, mean = before.mean_mass, after.mean_mass
    if before.tokens != after.tokens:
        return Estimate(EstimateStatus.MISSING, "The two arms were not read at the same tokens")
    if base_mean is None or base_mean <= 0:
        return Estimate(EstimateStatus.NO_REFERENCE, f"The mass on stop words of {names[0]} is zero or not finite")
    if mean is None:
        return Estimate(EstimateStatus.NOT_FINITE, f"The mass on stop words of {names[1]} is not finite")
    base = [one for one in before.mass if one is not None]
    mass = [one for one in after.mass if one is not None]
    ratio, low, high = bound_ratio(mass, base, context.confidence)
    words = f"The mean mass on stop words goes from {write_number(base_mean)} to {write_number(mean)}"
    if (few := context.count_short(len(base), "windows")) is not None:
        words = f"{words}, times {write_number(ratio)}; {few}"
        return Estimate(EstimateStatus.TOO_FEW, words, ratio, sample=Sample(count=count))
    estimate = Estimate(EstimateStatus.MEASURED, words, ratio, low, high, sample=Sample(count=count))
    return replace(estimate, words=f"{words}, times {write_interval(estimate, context.policy.confidence)}")
