"""Which arms an audit needs: from the policy, the selected checks and the located roles; pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sw_audit.policy.policy import Policy
from sw_audit.policy.recipe import Recipe
from sw_audit.policy.scheme import (
    HELD_OUT,
    NAIVE,
    SEARCHED,
    SMOOTHED,
    ActivationSetup,
    Scheme,
    name_scheme,
)
from sw_audit.record.address import AddressGroup, WeightAddress, group_addresses
from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    OTHER_OUTLIERS,
    PLACEBO_KINDS,
    PRUNED,
    RESTORED,
    Arm,
    Quantize,
    QuantizeActivations,
    RestoreActivation,
    Scale,
    Smooth,
    name_dose,
    name_placebo,
    name_rounding,
)
from sw_audit.record.subset import list_subsets

_ACCURACY = "accuracy-falls-to-chance"
_QUALITY, _GAP = "activation-holdout-quality", "holdout-closes-gap"
_COLLAPSE = "prune-collapses"
_DOSE = "damage-follows-dose"
_PLACEBO_CHECKS = ("placebo-harmless", "effect-exceeds-placebos")
_PRUNED_CHECKS = (
    _COLLAPSE, _DOSE, "effect-exceeds-placebos", "restored-activation-heals", "stopword-shift", _ACCURACY,
)  # fmt: skip

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
        mechanism: Whether the super activations are followed block by block.
        activations: Whether activations are quantized.
    """

    other_outliers: int
    placebos: dict[str, str]
    persistence: bool
    choices: bool
    mechanism: bool = False
    activations: bool = False


@dataclass(frozen=True)
class ArmTargets:
    """Which scalars play which part.

    Attributes:
        super_weights: The located set; may be empty.
        other_outliers: The largest other weights.
        placebos: Matched controls, by arm name.
        channels: Channels of the residual stream that carry a super activation.
    """

    super_weights: tuple[WeightAddress, ...] = ()
    other_outliers: tuple[WeightAddress, ...] = ()
    placebos: dict[str, tuple[WeightAddress, ...]] = field(default_factory=dict)
    channels: tuple[int, ...] = ()


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
    draws = policy.checks.placebo_harmless.draws if _any(checks, *_PLACEBO_CHECKS) else 0
    return Needs(
        other_outliers=count if "other-outliers-harmless" in checks else 0,
        placebos={name_placebo(kind, draw + 1): kind for kind in PLACEBO_KINDS for draw in range(draws)},
        persistence="super-activation-persists" in checks,
        choices=_ACCURACY in checks,
        mechanism=policy.confirmation.enabled and _any(checks, _COLLAPSE, "restored-activation-heals"),
        activations=bool(policy.activations.parsed()) and _any(checks, _QUALITY, _GAP),
    )


def plan_arms(
    policy: Policy, checks: Collection[str], roles: ArmTargets, setup: ActivationSetup | None = None
) -> tuple[Arm, ...]:
    """List the arms that the selected checks read, the baseline first.

    Args:
        policy: The policy.
        checks: Ids of the selected checks.
        roles: Which scalars play which part.
        setup: What was found out about quantizing activations, if they are to be.
    """
    pruned = group_addresses(roles.super_weights)
    arms = [BASELINE]
    if pruned and _any(checks, *_PRUNED_CHECKS):
        arms.append(_prune(PRUNED, roles.super_weights))
    if pruned and "restored-activation-heals" in checks:
        acts = (Scale(addresses=pruned, factor=0.0), RestoreActivation(addresses=pruned))
        arms.append(Arm(name=RESTORED, acts=acts))
    if roles.other_outliers and "other-outliers-harmless" in checks:
        arms.append(_prune(OTHER_OUTLIERS, roles.other_outliers))
    if pruned and _any(checks, *_PLACEBO_CHECKS):
        arms += [_prune(name, addresses) for name, addresses in roles.placebos.items() if addresses]
    if pruned and policy.confirmation.enabled:
        arms += _plan_confirmation(policy, checks, roles.super_weights)
    arms += _plan_rounding(policy, checks, pruned)
    if setup is not None and _any(checks, _QUALITY, _GAP):
        arms += _plan_activations(policy, checks, roles, setup)
    return tuple(arms)


def plan_trials(policy: Policy, checks: Collection[str], roles: ArmTargets) -> dict[str, tuple[Arm, ...]]:
    """List, per scheme, the arms that try SmoothQuant's alphas, in the policy's order; none if nobody asks."""
    gap = bool(roles.super_weights) and _GAP in checks
    return {
        str(scheme): tuple(
            _build_scheme(policy, scheme, f"{name_scheme(scheme, SMOOTHED)} {alpha:g}", alpha=alpha)
            for alpha in policy.activations.alphas
        )
        for scheme in policy.activations.parsed()
        if gap
    }


def _plan_confirmation(
    policy: Policy, checks: Collection[str], super_weights: Sequence[WeightAddress]
) -> list[Arm]:
    """Take the effect of the set apart: its parts, its sign, its dose; nothing that another arm measures."""
    arms: dict[object, Arm] = {}
    if _COLLAPSE in checks:
        for subset in list_subsets(super_weights):
            arms.setdefault(frozenset(subset.members), _prune(subset.name, subset.members))
        arms[FLIPPED] = _scale(FLIPPED, super_weights, -1.0)
    if _DOSE in checks:
        for factor in sorted(policy.confirmation.doses):
            arms.setdefault(name := name_dose(factor), _scale(name, super_weights, factor))
    return [arm for arm in arms.values() if arm.name not in (BASELINE.name, PRUNED)]


def _plan_rounding(policy: Policy, checks: Collection[str], held: tuple[AddressGroup, ...]) -> list[Arm]:
    plain = bool(held) and "holdout-beats-plain-rtn" in checks
    holdout = plain or "rtn-holdout-quality" in checks
    return [
        Arm(name=name_rounding(recipe, holdout=held_out), acts=(_quantize(policy, recipe, groups),))
        for recipe in policy.quantization.parsed()
        for wanted, held_out, groups in ((plain, False, ()), (holdout, True, held))
        if wanted
    ]


def _plan_activations(
    policy: Policy, checks: Collection[str], roles: ArmTargets, setup: ActivationSetup
) -> list[Arm]:
    """Quantize activations as they are, with the super activation held out, and by SmoothQuant."""
    static = policy.activations.scale == "tensor"
    if setup.unroundable is not None or (static and not setup.calibration_windows):
        return []
    held = bool(roles.super_weights)
    gap = held and _GAP in checks
    smooth = gap and setup.unsmoothable is None and setup.calibration_windows > 0
    arms = []
    for scheme in policy.activations.parsed():
        if gap or not held:
            arms.append(_build_scheme(policy, scheme, name_scheme(scheme, NAIVE)))
        if held:
            arms.append(_build_scheme(policy, scheme, name_scheme(scheme, HELD_OUT), roles=roles))
        if smooth:
            alpha, chosen = policy.activations.alpha, setup.chosen(str(scheme))
            arms.append(_build_scheme(policy, scheme, name_scheme(scheme, SMOOTHED), alpha=alpha))
            if chosen is not None and chosen != alpha:
                arms.append(_build_scheme(policy, scheme, name_scheme(scheme, SEARCHED), alpha=chosen))
    return arms


def _build_scheme(
    policy: Policy, scheme: Scheme, name: str, *, roles: ArmTargets | None = None, alpha: float | None = None
) -> Arm:
    recipe = scheme.recipe(policy.activations.weights)
    roles = roles or ArmTargets()
    return Arm(
        name=name,
        acts=(
            *([] if alpha is None else [Smooth(alpha=alpha)]),
            *([] if recipe is None else [_quantize(policy, recipe)]),
            QuantizeActivations(
                bits=scheme.activations,
                scale=policy.activations.scale,
                channels=roles.channels,
                columns=group_addresses(roles.super_weights),
            ),
        ),
    )


def _quantize(policy: Policy, recipe: Recipe, holdout: tuple[AddressGroup, ...] = ()) -> Quantize:
    which = policy.quantization
    return Quantize(recipe=recipe, holdout=holdout, targets=which.targets, ignore=which.ignore)


def _prune(name: str, addresses: Sequence[WeightAddress]) -> Arm:
    return _scale(name, addresses, 0.0)


def _scale(name: str, addresses: Sequence[WeightAddress], factor: float) -> Arm:
    return Arm(name=name, acts=(Scale(addresses=group_addresses(addresses), factor=factor),))


def _any(checks: Collection[str], *ids: str) -> bool:
    return any(check in checks for check in ids)
