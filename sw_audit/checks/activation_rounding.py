"""What the checks on quantized activations share: their arms, and why there may be none."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, get_args

from sw_audit.checks.arms import ArmPlan, ArmTargets
from sw_audit.checks.context import CheckContext, report_estimate
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.registry import Need, find_checks
from sw_audit.policy.scheme import Scheme
from sw_audit.record.address import group_addresses
from sw_audit.record.arm import (
    HELD_OUT,
    NAIVE,
    SEARCHED,
    SMOOTHED,
    ActivationRounding,
    Arm,
    QuantizeActivations,
    Smooth,
    Treatment,
)
from sw_audit.record.verdict import Finding

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


def plan_schemes(plan: ArmPlan, *treatments: Treatment) -> list[Arm]:
    """Quantize activations by each scheme of the policy, with each of some treatments that this model allows."""
    setup, policy = plan.setup, plan.policy
    if setup is None or setup.unroundable is not None:
        return []
    if policy.activations.scale == "tensor" and not setup.calibration_windows:
        return []
    smooths = setup.unsmoothable is None and setup.calibration_windows > 0
    arms = []
    for scheme in policy.activations.parsed():
        alphas: dict[Treatment, float | None] = {SMOOTHED: policy.activations.alpha}
        if (chosen := setup.chosen(str(scheme))) is not None and chosen != policy.activations.alpha:
            alphas[SEARCHED] = chosen
        for treatment in treatments:
            if treatment in (NAIVE, HELD_OUT) or (smooths and treatment in alphas):
                purpose = ActivationRounding(scheme=scheme, treatment=treatment)
                arms.append(_build_arm(plan, purpose, alphas.get(treatment)))
    return arms


def plan_trials(policy: Policy, checks: Collection[str], targets: ArmTargets) -> dict[str, tuple[Arm, ...]]:
    """List, per scheme, the arms that try SmoothQuant's alphas, in the policy's order; none if nobody asks."""
    plan = ArmPlan(policy, targets)
    asked = bool(targets.super_weights) and any(
        Need.SMOOTHING in check.needs for name, check in find_checks().items() if name in checks
    )
    return {
        str(scheme): tuple(
            _build_arm(plan, ActivationRounding(scheme=scheme, treatment=SMOOTHED, trial=alpha), alpha)
            for alpha in policy.activations.alphas
        )
        for scheme in policy.activations.parsed()
        if asked
    }


def _build_arm(plan: ArmPlan, purpose: ActivationRounding, alpha: float | None) -> Arm:
    policy, scheme = plan.policy.activations, purpose.scheme
    recipe = scheme.recipe(policy.weights)
    kept = plan.targets if purpose.treatment == HELD_OUT else ArmTargets()
    return Arm(
        purpose=purpose,
        acts=(
            *([] if alpha is None else [Smooth(alpha=alpha)]),
            *([] if recipe is None else [plan.quantize(recipe)]),
            QuantizeActivations(
                bits=scheme.activations,
                scale=policy.scale,
                channels=kept.channels,
                columns=group_addresses(kept.super_weights),
            ),
        ),
    )


def report_treatments(context: CheckContext, scheme: Scheme) -> list[Finding]:
    """Report what each treatment of a scheme that was measured costs, side by side, as perplexity ratios."""
    arms = [ActivationRounding(scheme=scheme, treatment=treatment) for treatment in get_args(Treatment)]
    return [
        report_estimate(arm.name, context.compare_perplexities(arm))
        for arm in arms
        if context.find_measurement(arm) is not None
    ]


def explain_skipped(context: CheckContext) -> str | None:
    """Say why activations were not to be quantized; `None` if they were."""
    if not context.policy.activations.enabled:
        return "Activations are not quantized (`[activations] enabled` is false)."
    if not context.policy.activations.schemes:
        return "The policy measures no scheme (`[activations] schemes` is empty)."
    setup = context.result.activations
    if setup is not None and setup.unroundable is not None:
        return f"This model's activations cannot be quantized: {setup.unroundable}."
    return None


def mind_calibration(context: CheckContext, estimate: Estimate) -> Estimate:
    """Say that an arm is missing for want of calibration text, where that is so."""
    setup = context.result.activations
    if estimate.status is not EstimateStatus.MISSING or setup is None or setup.calibration_windows:
        return estimate
    return Estimate(
        EstimateStatus.MISSING, f"{estimate.words}: no calibration text is left beyond the scored windows"
    )


def advise_text(context: CheckContext, estimate: Estimate) -> str | None:
    """Return what to do where an arm is missing for want of calibration text; `None` elsewhere."""
    setup = context.result.activations
    if estimate.status is not EstimateStatus.MISSING or setup is None or setup.calibration_windows:
        return None
    return (
        "Give a longer text in `[corpus] source`, fewer `[corpus] windows`, or scales per token "
        "(`[activations] scale`)."
    )
