"""The plan asks for what the selected checks read, and for nothing else."""

from __future__ import annotations

import pytest

from sw_audit.facts.address import WeightAddress
from sw_audit.facts.arm import BASELINE, Quantize, RestoreActivation, Scale
from sw_audit.facts.limits import CHECK_IDS
from sw_audit.facts.policy import Policy
from sw_audit.plan import Roles, plan_arms, plan_needs

SUPER = WeightAddress(parameter="down", row=1, column=2)
OTHER = WeightAddress(parameter="down", row=3, column=4)
ROLES = Roles((SUPER,), (OTHER,), {"placebo/random/1": (OTHER,)})


def names(checks: tuple[str, ...], roles: Roles = ROLES, policy: Policy = Policy()) -> list[str]:  # noqa: B008
    return [arm.name for arm in plan_arms(policy, checks, roles)]


def test_everything_selected_gives_every_arm_the_baseline_first() -> None:
    recipes = ("int4/16x16", "int4/64x64", "int4/256x256", "int4/tensor")
    rounded = [f"{recipe} {way}" for recipe in recipes for way in ("plain", "hold-out")]
    fixed = ["baseline", "pruned", "restored-activation", "other-outliers", "placebo/random/1"]
    assert names(CHECK_IDS) == fixed + rounded


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("super-weight-located", []),
        ("super-activation-persists", []),
        ("prune-collapses", ["pruned"]),
        ("other-outliers-harmless", ["other-outliers"]),
        ("placebo-harmless", ["placebo/random/1"]),
        ("restored-activation-heals", ["pruned", "restored-activation"]),
        ("stopword-shift", ["pruned"]),
        ("accuracy-falls-to-chance", ["pruned"]),
    ],
)
def test_one_check_asks_only_for_its_arms(check: str, expected: list[str]) -> None:
    assert names((check,)) == ["baseline", *expected]


def test_without_super_weights_nothing_is_pruned_and_nothing_held_out() -> None:
    arms = plan_arms(Policy(), CHECK_IDS, Roles(other_outliers=(OTHER,)))
    assert arms[0] == BASELINE
    assert [arm.name for arm in arms[1:3]] == ["other-outliers", "int4/16x16 hold-out"]
    assert all(act.holdout == () for arm in arms for act in arm.acts if isinstance(act, Quantize))
    assert not any(arm.name.endswith("plain") for arm in arms)


def test_the_acts_say_what_is_done() -> None:
    by_name = {arm.name: arm for arm in plan_arms(Policy(), CHECK_IDS, ROLES)}
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
    assert plan_needs(Policy(), CHECK_IDS, weights).other_outliers == expected


def test_a_count_in_the_policy_is_taken_as_it_is() -> None:
    policy = Policy.model_validate({"checks": {"other-outliers-harmless": {"count": 7}}})
    assert plan_needs(policy, CHECK_IDS, 10**10).other_outliers == 7


def test_nothing_is_looked_for_that_no_check_reads() -> None:
    needs = plan_needs(Policy(), ("prune-collapses",), 10**6)
    assert (needs.other_outliers, needs.placebos, needs.persistence, needs.choices) == (0, {}, False, False)
