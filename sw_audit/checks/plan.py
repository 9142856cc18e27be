"""Which arms an audit needs: what the selected checks ask for, each arm once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sw_audit.checks.activation_rounding import plan_trials
from sw_audit.checks.arms import ArmPlan, ArmTargets
from sw_audit.checks.registry import Check, Need, find_checks
from sw_audit.policy.policy import Policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.arm import BASELINE, PRUNED, RESTORED, Arm, Placebo, Purpose

__all__ = ["CHOICE_ARMS", "Needs", "plan_arms", "plan_needs", "plan_trials"]

CHOICE_ARMS: tuple[Purpose, ...] = (PRUNED, RESTORED)
"""The arms, besides the baseline, in which multiple-choice items are answered."""


@dataclass(frozen=True)
class Needs:
    """What must be found out about a model before its arms can be planned.

    Attributes:
        needs: What, besides scalars to draw.
        other_outliers: How many of the largest other weights.
        placebos: The matched controls.
    """

    needs: frozenset[Need]
    other_outliers: int = 0
    placebos: tuple[Placebo, ...] = ()

    def __contains__(self, need: Need) -> bool:
        return need in self.needs


def plan_needs(policy: Policy, checks: Collection[str], decoder_weights: int) -> Needs:
    """Say what must be found out, so that only that is.

    Args:
        policy: The policy.
        checks: Ids of the selected checks.
        decoder_weights: Number of scalars in the decoder's matrices.
    """
    selected = _select(checks)
    draws = [check.draws(policy, decoder_weights) for check in selected if check.draws is not None]
    needs = {need for check in selected for need in check.needs}
    if not policy.confirmation.enabled:
        needs -= {Need.MECHANISM}
    if not policy.experts.tried:
        needs -= {Need.ROUTING}
    if not policy.activations.parsed():
        needs -= {Need.ACTIVATIONS}
    return Needs(
        needs=frozenset(needs),
        other_outliers=max((draw.other_outliers for draw in draws), default=0),
        placebos=max((draw.placebos for draw in draws), key=len, default=()),
    )


def plan_arms(
    policy: Policy, checks: Collection[str], targets: ArmTargets, setup: ActivationSetup | None = None
) -> tuple[Arm, ...]:
    """List the arms that the selected checks read, the baseline first, each once.

    Args:
        policy: The policy.
        checks: Ids of the selected checks.
        targets: Which scalars play which part.
        setup: What was found out about quantizing activations, if they are to be.
    """
    plan = ArmPlan(policy, targets, setup)
    arms = [BASELINE, *(arm for check in _select(checks) if check.arms is not None for arm in check.arms(plan))]
    return tuple({arm.purpose: arm for arm in arms}.values())


def _select(checks: Collection[str]) -> list[Check]:
    return [check for name, check in find_checks().items() if name in checks]
