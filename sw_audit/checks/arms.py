"""What the arms of a check are made of: the scalars that play a part, and the actions on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sw_audit.policy.recipe import Recipe
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.address import WeightAddress, group_addresses
from sw_audit.record.arm import PRUNED, Arm, Placebo, Purpose, Quantize, Scale
from sw_audit.record.experts import TriedExpert

if TYPE_CHECKING:
    from sw_audit.policy.policy import Policy


@dataclass(frozen=True)
class Draws:
    """Which scalars must be drawn from a model.

    Attributes:
        other_outliers: How many of the largest weights that are no super weights.
        placebos: Which matched controls.
    """

    other_outliers: int = 0
    placebos: tuple[Placebo, ...] = ()


@dataclass(frozen=True)
class ArmTargets:
    """Which scalars play which part.

    Attributes:
        super_weights: The located set; may be empty.
        other_outliers: The largest other weights.
        placebos: Matched controls.
        channels: Channels of the residual stream that carry a super activation.
        experts: Experts of a mixture that are zeroed, and their controls.
        feeding: Those of `other_outliers` that write into such a channel, that the locator named, or that lead
            into a neuron of these.
    """

    super_weights: tuple[WeightAddress, ...] = ()
    other_outliers: tuple[WeightAddress, ...] = ()
    placebos: dict[Placebo, tuple[WeightAddress, ...]] = field(default_factory=dict)
    channels: tuple[int, ...] = ()
    feeding: tuple[WeightAddress, ...] = ()
    experts: tuple[TriedExpert, ...] = ()


@dataclass(frozen=True)
class ArmPlan:
    """What arms are planned from.

    Attributes:
        policy: The policy.
        targets: Which scalars play which part.
        setup: What was found out about quantizing activations, if they are to be.
    """

    policy: Policy
    targets: ArmTargets
    setup: ActivationSetup | None = None

    def quantize(self, recipe: Recipe, *, keep: bool = False) -> Quantize:
        """Return the action that rounds the policy's matrices, the super weights kept in full precision or not."""
        which = self.policy.quantization
        kept = group_addresses(self.targets.super_weights) if keep else ()
        return Quantize(recipe=recipe, holdout=kept, targets=which.targets, ignore=which.ignore)


def scale(purpose: Purpose, addresses: Sequence[WeightAddress], factor: float) -> Arm:
    """Return the arm in which some scalars are multiplied by a factor."""
    return Arm(purpose=purpose, acts=(Scale(addresses=group_addresses(addresses), factor=factor),))


def prune(purpose: Purpose, addresses: Sequence[WeightAddress]) -> Arm:
    """Return the arm in which some scalars are zero."""
    return scale(purpose, addresses, 0.0)


def prune_super_weights(plan: ArmPlan) -> list[Arm]:
    """Return the arm in which all super weights are zero; none where there are none."""
    return [prune(PRUNED, plan.targets.super_weights)] if plan.targets.super_weights else []
