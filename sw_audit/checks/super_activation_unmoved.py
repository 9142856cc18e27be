"""Super activations beside what they once were."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.drift import KEEP_IN_TRAINING, judge_activation
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.checks.super_weight_unmoved import super_weight_unmoved
from sw_audit.record.verdict import Status, Verdict


class SuperActivationUnmovedLimits(Limits):
    """Limits of `super-activation-unmoved`.

    Attributes:
        minimum_ratio: Smallest value over the baseline's; see the limits beside a parent.
        maximum_ratio: Largest.
    """

    minimum_ratio: Ratio = 0.6
    maximum_ratio: Ratio = 1.67


@check(
    id="super-activation-unmoved",
    order=290,
    title="The super activations are what they were",
    meaning="Channel and magnitude of the activation that these scalars make.",
    quantity="smallest magnitude ratio",
    fails="below 0.6 or above 1.67 times what they were",
    limits=SuperActivationUnmovedLimits,
    level="gate",
    side="at least",
    scope="baseline",
)
def super_activation_unmoved(context: CheckContext) -> Verdict:
    """Rule of `super-activation-unmoved`.

    On the prompt that located them, channel and token of every super activation of the baseline are read again,
    the median over layers. FAIL where the magnitude is outside of the limits, of the other sign, or not finite;
    INCONCLUSIVE where prompt, dtype or shape differ, so that they cannot be compared; SKIPPED where the baseline
    has none. One pass on one prompt is exact, so there is no interval.
    """
    baseline = context.baseline
    if not baseline.location.super_activations:
        return context.skip(f"The baseline {baseline.name} has no super activation ({baseline.location.because}).")
    obstacles = baseline.list_obstacles(context.result.model, context.result.location)
    if obstacles or not baseline.activations:
        reason = "; ".join(obstacles) or "its super activations were not read in this model"
        return context.conclude(
            Status.INCONCLUSIVE,
            f"The super activations of the baseline {baseline.name} cannot be compared: {reason}.",
            remedy="Run the audit again with `--compare`, in the dtype of the baseline, or keep a new one.",
        )
    limits = context.limits(SuperActivationUnmovedLimits)
    low, high = limits.minimum_ratio, limits.maximum_ratio
    findings = [judge_activation(one, low, high) for one in baseline.activations]
    deciding = decide_finding(findings, key=lambda one: _measure_distance(one.observed or 0.0, low, high))
    return context.conclude(
        deciding.status,
        f"Against the baseline {baseline.name}: {deciding.label} {deciding.because}.",
        remedy=f"Look at `{super_weight_unmoved.id}`: the super weights make this activation. {KEEP_IN_TRAINING}",
        figure=deciding,
        limit=deciding.limit,
        findings=findings,
        measured=False,
    )


def _measure_distance(ratio: float, low: float, high: float) -> float:
    """Return how far a ratio is out, as a factor: above 1 where it is outside; a changed sign is furthest."""
    return max(low / ratio, ratio / high) if ratio > 0 else math.inf
