"""Which arms an audit needs: from the policy, the selected checks and the located roles; pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sw_audit.facts.address import AddressGroup, WeightAddress, group_addresses
from sw_audit.facts.arm import (
    BASELINE,
    OTHER_OUTLIERS,
    PLACEBO_KINDS,
    PRUNED,
    RESTORED,
    Arm,
    Quantize,
    RestoreActivation,
    Scale,
    name_placebo,
    name_rounding,
)
from sw_audit.facts.policy import Policy

_ACCURACY = "accuracy-falls-to-chance"

CHOICE_ARMS = (PRUNED, RESTORED)
"""The arms, besides the baseline, in which multiple-choice items are answered."""

FEWEST_OUTLIERS, MOST_OUTLIERS = 100, 7000
"""A fraction of the weights is held between these: a small model has few weights, the paper zeroes 7,000."""


@dataclass(frozen=True)
class Needs:
    """What must be looked for in a model before its arms can be planned.

    Attributes:
        other_outliers: How many of the largest other weights.
        placebos: Names and kinds of the matched controls, by arm name.
        persistence: Whether the super activation is followed on several prompts.
        choices: Whether multiple-choice items are answered.
    """

    other_outliers: int
    placebos: dict[str, str]
    persistence: bool
    choices: bool


@dataclass(frozen=True)
class Roles:
    """Which scalars play which part.

    Attributes:
        super_weights: The located set; may be empty.
        other_outliers: The largest other weights.
        placebos: Matched controls, by arm name.
    """

    super_weights: tuple[WeightAddress, ...] = ()
    other_outliers: tuple[WeightAddress, ...] = ()
    placebos: dict[str, tuple[WeightAddress, ...]] = field(default_factory=dict)


def plan_needs(policy: Policy, checks: Collection[str], decoder_weights: int) -> Needs:
    """Say what must be looked for, so that only that is.

    Args:
        policy: The policy.
        checks: Ids of the selected checks.
        decoder_weights: Number of scalars in the decoder's matrices.
    """
    limits = policy.checks.other_outliers_harmless
    share = round(limits.fraction * decoder_weights)
    count = limits.count or min(max(share, FEWEST_OUTLIERS), MOST_OUTLIERS)
    draws = policy.checks.placebo_harmless.draws if "placebo-harmless" in checks else 0
    return Needs(
        other_outliers=count if "other-outliers-harmless" in checks else 0,
        placebos={name_placebo(kind, draw + 1): kind for kind in PLACEBO_KINDS for draw in range(draws)},
        persistence="super-activation-persists" in checks,
        choices=_ACCURACY in checks,
    )


def plan_arms(policy: Policy, checks: Collection[str], roles: Roles) -> tuple[Arm, ...]:
    """List the arms that the selected checks read, the baseline first.

    Args:
        policy: The policy.
        checks: Ids of the selected checks.
        roles: Which scalars play which part.
    """
    pruned = group_addresses(roles.super_weights)
    arms = [BASELINE]
    if pruned and _any(checks, "prune-collapses", "restored-activation-heals", "stopword-shift", _ACCURACY):
        arms.append(Arm(name=PRUNED, acts=(Scale(addresses=pruned, factor=0.0),)))
    if pruned and "restored-activation-heals" in checks:
        acts = (Scale(addresses=pruned, factor=0.0), RestoreActivation(addresses=pruned))
        arms.append(Arm(name=RESTORED, acts=acts))
    if roles.other_outliers and "other-outliers-harmless" in checks:
        arms.append(_prune(OTHER_OUTLIERS, roles.other_outliers))
    if pruned and "placebo-harmless" in checks:
        arms += [_prune(name, addresses) for name, addresses in roles.placebos.items() if addresses]
    return (*arms, *_plan_rounding(policy, checks, pruned))


def _plan_rounding(policy: Policy, checks: Collection[str], held: tuple[AddressGroup, ...]) -> list[Arm]:
    plain = bool(held) and "holdout-beats-plain-rtn" in checks
    holdout = plain or "rtn-holdout-quality" in checks
    return [
        Arm(name=name_rounding(recipe, holdout=held_out), acts=(Quantize(recipe=recipe, holdout=groups),))
        for recipe in policy.quantization.parsed()
        for wanted, held_out, groups in ((plain, False, ()), (holdout, True, held))
        if wanted
    ]


def _prune(name: str, addresses: tuple[WeightAddress, ...]) -> Arm:
    return Arm(name=name, acts=(Scale(addresses=group_addresses(addresses), factor=0.0),))


def _any(checks: Collection[str], *ids: str) -> bool:
    return any(check in checks for check in ids)
