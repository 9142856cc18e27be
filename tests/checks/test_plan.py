"""The plan asks for what the selected checks read, and for nothing else."""

from __future__ import annotations

import pytest

from sw_audit.checks.plan import ArmTargets, plan_arms, plan_needs, plan_trials
from sw_audit.checks.registry import Need, find_checks
from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.policy.scheme import ActivationPolicy, ActivationSetup, AlphaSearch
from sw_audit.record.address import WeightAddress, group_addresses, list_addresses
from sw_audit.record.arm import (
    BASELINE,
    Arm,
    Placebo,
    Quantize,
    QuantizeActivations,
    RestoreActivation,
    Scale,
    Smooth,
    list_pruned,
)

SUPER = WeightAddress(parameter="down", row=1, column=2)
OTHER = WeightAddress(parameter="down", row=3, column=4)
ROLES = ArmTargets((SUPER,), (OTHER,), {Placebo(control="random", draw=1): (OTHER,)}, channels=(1,))
SETUP = ActivationSetup(
    smoothed=5,
    projections=7,
    calibration_windows=8,
    calibration_tokens=512,
    searches=(
        AlphaSearch(scheme="w16a4", trials=(), chosen=0.5),
        AlphaSearch(scheme="w8a8", trials=(), chosen=0.85),
    ),
)
QUALITY, GAP = "activation-holdout-quality", "holdout-closes-gap"


def names(checks: tuple[str, ...], roles: ArmTargets = ROLES, policy: Policy = Policy()) -> list[str]:  # noqa: B008
    return [arm.name for arm in plan_arms(policy, checks, roles)]


def test_everything_selected_gives_every_arm_the_baseline_first() -> None:
    recipes = ("int4/16x16", "int4/64x64", "int4/256x256", "int4/tensor")
    rounded = [f"{recipe} {way}" for recipe in recipes for way in ("plain", "hold-out")]
    # What people ship, where rows share no scale: only held out.
    rounded += [f"{recipe} hold-out" for recipe in ("int8/row", "int4/group64", "nf4/group64")]
    fixed = ["baseline", "pruned", "flipped", "other-outliers", "placebo/random/1"]
    doses = [f"dose/{factor}" for factor in ("0.1", "0.25", "0.5", "0.75", "1.5", "2", "3")]
    planned = names(tuple(find_checks()))
    assert planned[0] == "baseline"
    assert sorted(planned) == sorted([*fixed, *doses, "restored-activation", *rounded])


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("super-weight-located", []),
        ("super-activation-persists", []),
        ("prune-collapses", ["pruned", "flipped"]),
        ("other-outliers-harmless", ["other-outliers"]),
        ("placebo-harmless", ["placebo/random/1"]),
        ("effect-exceeds-placebos", ["pruned", "placebo/random/1"]),
        ("restored-activation-heals", ["pruned", "restored-activation"]),
        ("stopword-shift", ["pruned"]),
        ("accuracy-falls-to-chance", ["pruned"]),
    ],
)
def test_one_check_asks_only_for_its_arms(check: str, expected: list[str]) -> None:
    assert names((check,)) == ["baseline", *expected]


def make_set(*coordinates: tuple[str, int, int]) -> ArmTargets:
    return ArmTargets(
        tuple(WeightAddress(parameter=name, row=row, column=column) for name, row, column in coordinates)
    )


def list_zeroed(roles: ArmTargets, policy: Policy = Policy()) -> dict[str, list[tuple[str, int, int]]]:  # noqa: B008
    """Return what each arm of `prune-collapses` zeroes."""
    found = {}
    for arm in plan_arms(policy, ("prune-collapses",), roles):
        if (zeroed := list_pruned(arm)) is not None:
            found[arm.name] = sorted((one.parameter, one.row, one.column) for one in zeroed)
    return found


def test_of_two_scalars_each_is_zeroed_alone_which_is_also_the_set_without_the_other() -> None:
    first, second = ("a", 5, 1), ("a", 5, 2)
    assert list_zeroed(make_set(first, second)) == {
        "pruned": [first, second],
        "alone/1": [first],
        "alone/2": [second],
    }


def test_rows_go_through_all_layers_and_columns_belong_to_one_matrix() -> None:
    # As in Llama-30B, with one scalar more: one residual channel in two layers, and one neuron of the first.
    one, two, three, four = ("a", 5, 1), ("a", 5, 2), ("b", 5, 1), ("a", 6, 2)
    zeroed = list_zeroed(make_set(one, two, three, four))
    assert zeroed["row/1"] == [one, two, three]
    assert zeroed["column/1"] == [two, four]
    assert {name: zeroed[name] for name in zeroed if name.startswith("alone")} == {
        "alone/1": [one],
        "alone/2": [two],
        "alone/3": [three],
        "alone/4": [four],
    }
    # Without the fourth the row is left, which has an arm already.
    without = {name: zeroed[name] for name in zeroed if name.startswith("without")}
    assert without == {
        "without/1": sorted([two, three, four]),
        "without/2": sorted([one, three, four]),
        "without/3": sorted([one, two, four]),
    }


def test_no_arm_of_the_confirmation_repeats_another() -> None:
    roles = make_set(("a", 5, 1), ("a", 5, 2), ("b", 5, 1), ("a", 6, 2), ("a", 6, 1), ("b", 7, 3))
    acts = [arm.acts for arm in plan_arms(Policy(), tuple(find_checks()), roles)]
    assert len(set(acts)) == len(acts)
    assert len(set(names(tuple(find_checks()), roles))) == len(acts)


def test_the_dose_is_the_whole_set_times_a_factor_and_neither_0_nor_1_is_measured_twice() -> None:
    policy = Policy.model_validate({"confirmation": {"doses": [2.0, 0.0, 1.0, 0.5]}})
    roles = make_set(("a", 5, 1), ("b", 6, 2))
    arms = plan_arms(policy, ("damage-follows-dose",), roles)
    assert [arm.name for arm in arms] == ["baseline", "pruned", "dose/0.5", "dose/2"]
    for arm, factor in zip(arms[1:], (0.0, 0.5, 2.0), strict=True):
        [act] = arm.acts
        assert isinstance(act, Scale)
        assert act.factor == factor
        assert set(list_addresses(act.addresses)) == set(roles.super_weights)


def test_a_policy_can_do_without_the_confirmation() -> None:
    policy = Policy.model_validate({"confirmation": {"enabled": False}})
    assert names(("prune-collapses", "damage-follows-dose"), policy=policy) == ["baseline", "pruned"]
    assert Need.MECHANISM not in plan_needs(policy, tuple(find_checks()), 10**6)
    assert Need.MECHANISM in plan_needs(Policy(), ("prune-collapses",), 10**6)


def test_without_super_weights_nothing_is_pruned_and_nothing_held_out() -> None:
    arms = plan_arms(Policy(), tuple(find_checks()), ArmTargets(other_outliers=(OTHER,)))
    assert arms[0] == BASELINE
    assert [arm.name for arm in arms[1:3]] == ["other-outliers", "int8/row hold-out"]
    assert all(act.holdout == () for arm in arms for act in arm.acts if isinstance(act, Quantize))
    assert not any(arm.name.endswith("plain") for arm in arms)


def test_the_acts_say_what_is_done() -> None:
    by_name = {arm.name: arm for arm in plan_arms(Policy(), tuple(find_checks()), ROLES)}
    [zero, restore] = by_name["restored-activation"].acts
    assert isinstance(zero, Scale)
    assert zero.factor == 0.0
    assert isinstance(restore, RestoreActivation)
    assert zero.addresses == restore.addresses
    [held] = by_name["int4/tensor hold-out"].acts
    assert isinstance(held, Quantize)
    assert held.holdout == zero.addresses


@pytest.mark.parametrize(
    ("weights", "expected"), [(300_000, 100), (500_000_000, 500), (6_738_000_000, 6738), (70_000_000_000, 7000)]
)
def test_the_number_of_other_outliers_follows_the_models_size(weights: int, expected: int) -> None:
    assert plan_needs(Policy(), tuple(find_checks()), weights).other_outliers == expected


def test_a_count_in_the_policy_is_taken_as_it_is() -> None:
    policy = Policy.model_validate({"checks": {"other-outliers-harmless": {"count": 7}}})
    assert plan_needs(policy, tuple(find_checks()), 10**10).other_outliers == 7


def test_nothing_is_looked_for_that_no_check_reads() -> None:
    needs = plan_needs(Policy(), ("prune-collapses",), 10**6)
    assert (needs.other_outliers, needs.placebos, needs.needs) == (0, (), {Need.MECHANISM})


def plan_schemes(
    *checks: str, roles: ArmTargets = ROLES, setup: ActivationSetup = SETUP, **activations: object
) -> dict[str, Arm]:
    """Return the arms that quantize activations."""
    policy = Policy(activations=ActivationPolicy.model_validate(activations))
    return {arm.name: arm for arm in plan_arms(policy, checks, roles, setup)[1:]}


def test_a_scheme_is_measured_as_it_is_held_out_and_smoothed_by_two_alphas_where_they_differ() -> None:
    arms = plan_schemes(QUALITY, GAP, schemes=("w8a8", "w16a4"))
    assert sorted(arms) == [
        "w16a4 hold-out",
        "w16a4 naive",
        "w16a4 smoothquant",
        "w16a4 smoothquant searched",
        "w8a8 hold-out",
        "w8a8 naive",
        "w8a8 smoothquant",
    ]
    recipe = parse_recipe("int8/tensor/symmetric")
    assert arms["w8a8 naive"].acts == (Quantize(recipe=recipe), QuantizeActivations(bits=8))
    held = QuantizeActivations(bits=8, channels=(1,), columns=(group_addresses([SUPER])))
    assert arms["w8a8 hold-out"].acts == (Quantize(recipe=recipe), held)
    assert arms["w8a8 smoothquant"].acts == (Smooth(alpha=0.85), *arms["w8a8 naive"].acts)
    # 16 bits leave the weights alone.
    assert arms["w16a4 smoothquant searched"].acts == (Smooth(alpha=0.5), QuantizeActivations(bits=4))


def test_quality_alone_needs_no_naive_arm_and_no_smoothing() -> None:
    assert list(plan_schemes(QUALITY)) == ["w8a8 hold-out"]
    assert list(plan_schemes(QUALITY, GAP, roles=ArmTargets())) == ["w8a8 naive"]


def test_weights_per_row_and_static_scales_are_what_the_policy_says() -> None:
    arm = plan_schemes(QUALITY, schemes=("w4a8",), weights="row", scale="tensor")["w4a8 hold-out"]
    weights, activations = arm.acts
    assert isinstance(weights, Quantize)
    assert isinstance(activations, QuantizeActivations)
    assert (str(weights.recipe), activations.scale) == ("int4/row/symmetric", "tensor")


def test_what_cannot_be_measured_is_not_planned() -> None:
    unsmoothable = SETUP.model_copy(update={"unsmoothable": "no weights", "searches": ()})
    assert not any("smoothquant" in name for name in plan_schemes(GAP, setup=unsmoothable))
    # Without calibration text scales per token can be had, smoothing and scales per tensor cannot.
    bare = SETUP.model_copy(update={"calibration_windows": 0, "searches": ()})
    assert list(plan_schemes(GAP, setup=bare, schemes=("w8a8",))) == ["w8a8 naive", "w8a8 hold-out"]
    assert plan_schemes(GAP, setup=bare, scale="tensor") == {}
    assert plan_schemes(GAP, setup=SETUP.model_copy(update={"unroundable": "experts"})) == {}
    assert plan_schemes(GAP, enabled=False) == {}
    assert plan_schemes("prune-collapses").keys() == {"pruned", "flipped"}


def test_alphas_are_tried_where_the_gap_is_asked_for_and_there_is_one() -> None:
    policy = Policy(activations=ActivationPolicy(schemes=("w8a8",), alphas=(0.5, 0.9)))
    [(scheme, trials)] = plan_trials(policy, (GAP,), ROLES).items()
    assert scheme == "w8a8"
    assert [arm.acts[0] for arm in trials] == [Smooth(alpha=0.5), Smooth(alpha=0.9)]
    assert len({arm.name for arm in trials}) == 2
    assert plan_trials(policy, (QUALITY,), ROLES) == plan_trials(policy, (GAP,), ArmTargets()) == {}


@pytest.mark.parametrize(("checks", "wanted"), [((QUALITY,), True), ((GAP,), True), (("prune-collapses",), False)])
def test_activations_are_prepared_only_where_a_check_reads_them(checks: tuple[str, ...], wanted: bool) -> None:
    assert (Need.ACTIVATIONS in plan_needs(Policy(), checks, 1000)) is wanted
    off = Policy(activations=ActivationPolicy(enabled=False))
    assert Need.ACTIVATIONS not in plan_needs(off, checks, 1000)


def test_the_policys_patterns_go_into_every_act_that_rounds_weights() -> None:
    patterns = {"targets": ("*.down_proj",), "ignore": ("*.1.*",)}
    policy = Policy(quantization=QuantizationPolicy.model_validate({"recipes": ("int4/row",), **patterns}))
    arms = plan_arms(policy, (*tuple(find_checks()),), ROLES, SETUP)
    rounding = [act for arm in arms for act in arm.acts if isinstance(act, Quantize)]
    # Held out; naive, held out and smoothed in W8A8.
    assert len(rounding) == 4
    assert {(act.targets, act.ignore) for act in rounding} == {(patterns["targets"], patterns["ignore"])}
