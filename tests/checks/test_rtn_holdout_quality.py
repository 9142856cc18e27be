from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.evidence import HEALTHY, make_evidence, make_failing_evidence, make_none_evidence, make_policy
from support.verdicts import judge_one, judge_recipes, make_recipes_policy

from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.record.arm import Arm, Rounding
from sw_audit.record.verdict import Status

QUALITY, GAIN = "rtn-holdout-quality", "holdout-beats-plain-rtn"


def test_recipes_with_a_limit_decide_and_the_others_are_reported() -> None:
    verdict = judge_one(QUALITY, make_evidence())
    assert verdict.status is Status.PASS
    # INT8 rows are the nearest to their limit, of 1.05.
    assert verdict.observed == pytest.approx(1.004)
    assert verdict.limit == 1.05
    by_label = {one.label: one for one in verdict.findings}
    shipped, curve = ["int8/row", "int4/group64", "nf4/group64"], ["16x16", "64x64", "256x256", "tensor"]
    assert list(by_label) == [*shipped, *(f"int4/{block}" for block in curve)]
    assert [one.status for one in verdict.findings] == [Status.PASS] * 3 + [Status.SKIPPED] * 4
    assert by_label["int4/tensor"].limit is None
    assert by_label["int4/tensor"].observed == pytest.approx(1.162)


def test_a_reported_recipe_decides_nothing_however_bad_it_is() -> None:
    ratios = {**HEALTHY, "int4/tensor hold-out": None, "int4/256x256 hold-out": 1e6}
    verdict = judge_one(QUALITY, make_evidence(ratios=ratios))
    assert verdict.status is Status.PASS
    assert verdict.findings[-1].observed is None


@pytest.mark.parametrize(
    ("weights", "limit", "status"),
    [(999_999_999, 1.5, Status.PASS), (1_000_000_000, 1.2, Status.FAIL), (0, 1.5, Status.PASS)],
)
def test_a_model_of_a_billion_weights_may_lose_less_than_a_small_one(
    weights: int, limit: float, status: Status
) -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int4/group64",)))
    evidence = make_evidence(ratios={**HEALTHY, "int4/group64 hold-out": 1.35}, policy=policy)
    verdict = judge_one(QUALITY, evidence.model_copy(update={"decoder_weights": weights}), policy)
    assert (verdict.status, verdict.limit) == (status, limit)


def test_limits_that_are_given_count_whatever_the_size_and_must_name_what_is_measured() -> None:
    policy = make_recipes_policy("int4/group64", quality={"int4/group64": 1.01})
    verdict = judge_recipes(QUALITY, policy, int4_group64_hold_out=1.35)
    assert (verdict.status, verdict.limit) == (Status.FAIL, 1.01)
    with pytest.raises(ValidationError, match="int4/row"):
        make_recipes_policy("int4/group64", quality={"int4/row": 1.01})


def test_the_recipe_farthest_above_its_own_limit_decides() -> None:
    policy = make_recipes_policy("int4/8x8", "int4/row", quality={"int4/8x8": 1.05, "int4/row": 2.0})
    verdict = judge_recipes(QUALITY, policy, int4_8x8_hold_out=1.5, int4_row_hold_out=2.1)
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("int4/8x8")
    assert verdict.limit == 1.05
    assert verdict.remedy is not None
    assert "[checks.rtn-holdout-quality] maximum_ratio" in verdict.remedy


def test_a_limited_recipe_that_is_not_finite_fails() -> None:
    verdict = judge_one(QUALITY, make_evidence(ratios={**HEALTHY, "nf4/group64 hold-out": None}))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None
    assert "nf4/group64" in verdict.because


def test_a_limited_recipe_that_was_not_measured_is_inconclusive() -> None:
    verdict = judge_one(QUALITY, make_evidence(omit=("int8/row hold-out",)))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None


def test_default_limits_of_recipes_that_are_not_measured_are_left_out() -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int4/row",)))
    verdict = judge_one(QUALITY, make_evidence(policy=policy), policy)
    assert verdict.status is Status.SKIPPED
    assert "No recipe that is measured has a limit" in verdict.because
    assert [one.label for one in verdict.findings] == ["int4/row"]


def test_without_a_super_weight_there_is_nothing_to_hold_out_and_quality_is_judged_all_the_same() -> None:
    evidence = make_none_evidence("specimen")
    assert judge_one(QUALITY, evidence).status is Status.PASS
    plain_only = tuple(
        one.model_copy(update={"arm": Arm(purpose=Rounding(recipe=purpose.recipe, keep=False))})
        if isinstance(purpose := one.arm.purpose, Rounding)
        else one
        for one in evidence.measurements
    )
    verdict = judge_one(QUALITY, evidence.model_copy(update={"measurements": plain_only}))
    assert verdict.status is Status.PASS
    assert judge_one(GAIN, evidence).status is Status.SKIPPED


def test_a_located_super_weight_must_be_held_out_in_what_is_judged() -> None:
    omitted = tuple(f"{recipe} hold-out" for recipe in make_policy().quantization.recipes)
    assert judge_one(QUALITY, make_evidence(omit=omitted)).status is Status.INCONCLUSIVE


def test_a_model_that_rounding_breaks_fails() -> None:
    assert judge_one(QUALITY, make_failing_evidence("specimen")).status is Status.FAIL
