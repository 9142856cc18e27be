from __future__ import annotations

from typing import Any

import pytest
from support.evidence import HEALTHY, make_evidence, make_failing_evidence, make_none_evidence, make_policy

from sw_audit.checks.holdout_beats_plain_rtn import HoldoutBeatsPlainRtnLimits
from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.rtn_holdout_quality import RtnHoldoutQualityLimits
from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.record.arm import Arm, Custom
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

QUALITY, GAIN = "rtn-holdout-quality", "holdout-beats-plain-rtn"


def make_recipes_policy(*recipes: str, quality: dict[str, float] | None = None, **gain: Any) -> Policy:
    return Policy(
        quantization=QuantizationPolicy(recipes=recipes),
        checks=CheckLimits(
            {
                "rtn-holdout-quality": RtnHoldoutQualityLimits(maximum_ratio=quality or {}),
                "holdout-beats-plain-rtn": HoldoutBeatsPlainRtnLimits(**gain),
            }
        ),
    )


def judge_one(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    return judge_result(evidence, policy or make_policy(), [check])[0]


def judge_ratios(check: str, policy: Policy, **ratios: float | None) -> Verdict:
    """Judge recipes whose ratios are given as `int4_tensor_plain=...`."""
    named = {
        name.replace("_", "/", 1).replace("_", " ").replace("hold out", "hold-out"): ratio
        for name, ratio in ratios.items()
    }
    return judge_one(check, make_evidence(ratios=named, policy=policy), policy)


def test_recipes_with_a_limit_decide_and_the_others_are_reported() -> None:
    verdict = judge_one(QUALITY, make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.083)
    assert verdict.limit == 1.2
    by_label = {one.label: one for one in verdict.findings}
    assert list(by_label) == ["int4/16x16", "int4/64x64", "int4/256x256", "int4/tensor"]
    assert [one.status for one in verdict.findings] == [Status.PASS] * 2 + [Status.SKIPPED] * 2
    assert by_label["int4/tensor"].limit is None
    assert by_label["int4/tensor"].observed == pytest.approx(1.162)


def test_a_reported_recipe_decides_nothing_however_bad_it_is() -> None:
    ratios = {**HEALTHY, "int4/tensor hold-out": None, "int4/256x256 hold-out": 1e6}
    verdict = judge_one(QUALITY, make_evidence(ratios=ratios))
    assert verdict.status is Status.PASS
    assert verdict.findings[3].observed is None


def test_the_recipe_farthest_above_its_own_limit_decides() -> None:
    policy = make_recipes_policy("int4/8x8", "int4/row", quality={"int4/8x8": 1.05, "int4/row": 2.0})
    verdict = judge_ratios(QUALITY, policy, int4_8x8_hold_out=1.5, int4_row_hold_out=2.1)
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("int4/8x8")
    assert verdict.limit == 1.05
    assert verdict.remedy is not None
    assert "[checks.rtn-holdout-quality] maximum_ratio" in verdict.remedy


def test_a_limited_recipe_that_is_not_finite_fails() -> None:
    verdict = judge_one(QUALITY, make_evidence(ratios={**HEALTHY, "int4/16x16 hold-out": None}))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None
    assert "int4/16x16" in verdict.because


def test_a_limited_recipe_that_was_not_measured_is_inconclusive() -> None:
    verdict = judge_one(QUALITY, make_evidence(omit=("int4/64x64 hold-out",)))
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
    plain_only = make_evidence(
        outcome=Outcome.NONE, omit=tuple(f"{recipe} hold-out" for recipe in make_policy().quantization.recipes)
    )
    assert judge_one(QUALITY, plain_only).status is Status.PASS
    assert judge_one(GAIN, evidence).status is Status.SKIPPED


def test_a_located_super_weight_must_be_held_out_in_what_is_judged() -> None:
    omitted = tuple(f"{recipe} hold-out" for recipe in make_policy().quantization.recipes)
    assert judge_one(QUALITY, make_evidence(omit=omitted)).status is Status.INCONCLUSIVE


def test_the_gain_at_the_coarsest_recipe_is_what_is_shown() -> None:
    verdict = judge_one(GAIN, make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(4.73 / 1.162)
    assert verdict.limit == 1.0
    assert verdict.findings[0].label == "gain at int4/tensor"
    assert [one.label for one in verdict.findings[1:]] == [
        f"no harm at int4/{size}" for size in ("16x16", "64x64", "256x256")
    ]


@pytest.mark.parametrize(
    ("recipes", "coarsest"),
    [
        (("int4/16x16", "int4/tensor", "int4/9999x9999"), "int4/tensor"),
        (("int4/64x64", "int4/16x512"), "int4/16x512"),
        (("int4/16x16", "int4/run300"), "int4/run300"),
        # A row of the made-up model is 128 long: longer than 8x8, shorter than 16x16.
        (("int4/8x8", "int4/row"), "int4/row"),
        (("int4/row", "int4/16x16"), "int4/16x16"),
        (("int4/64x64", "int8/64x64"), "int4/64x64"),
    ],
)
def test_the_coarsest_recipe_shares_one_scale_among_most_weights(recipes: tuple[str, ...], coarsest: str) -> None:
    policy = make_recipes_policy(*recipes)
    verdict = judge_one(GAIN, make_evidence(policy=policy), policy)
    assert verdict.findings[0].label == f"gain at {coarsest}"


def test_no_gain_at_the_coarsest_recipe_fails() -> None:
    policy = make_recipes_policy("int4/tensor")
    verdict = judge_ratios(GAIN, policy, int4_tensor_plain=2.0, int4_tensor_hold_out=3.0)
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(2 / 3)
    assert verdict.remedy is not None
    assert "minimum_gain" in verdict.remedy


def test_hold_out_and_plain_that_are_the_same_is_no_gain() -> None:
    policy = make_recipes_policy("int4/tensor")
    evidence = make_evidence(policy=policy)
    plain = evidence.measured("int4/tensor plain")
    assert plain is not None
    same = plain.model_copy(update={"arm": Arm(purpose=Custom(label="int4/tensor hold-out"))})
    kept = [one for one in evidence.measurements if one.arm.name != "int4/tensor hold-out"]
    verdict = judge_one(GAIN, evidence.model_copy(update={"measurements": (*kept, same)}), policy)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.low, verdict.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("hold_out", "status"),
    [(1.0, Status.PASS), (1.05, Status.INCONCLUSIVE), (1.5, Status.FAIL)],
)
def test_harm_at_a_finer_recipe_counts_too(hold_out: float, status: Status) -> None:
    policy = make_recipes_policy("int4/8x8", "int4/tensor", maximum_harm=1.05)
    verdict = judge_ratios(
        GAIN,
        policy,
        int4_8x8_plain=1.0,
        int4_8x8_hold_out=hold_out,
        int4_tensor_plain=5.0,
        int4_tensor_hold_out=1.2,
    )
    assert verdict.status is status
    if status is Status.PASS:
        assert verdict.because.startswith("gain at int4/tensor")
    else:
        assert verdict.limit == pytest.approx(1 / 1.05)
        assert verdict.because.startswith("no harm at int4/8x8")
        assert verdict.remedy is not None
        assert "maximum_harm" in verdict.remedy


@pytest.mark.parametrize(
    ("plain", "hold_out", "status"),
    [(None, 1.2, Status.PASS), (5.0, None, Status.FAIL), (None, None, Status.FAIL)],
)
def test_plain_rounding_that_is_not_finite_is_beaten_but_not_by_another_such(
    plain: float | None, hold_out: float | None, status: Status
) -> None:
    policy = make_recipes_policy("int4/tensor")
    verdict = judge_ratios(GAIN, policy, int4_tensor_plain=plain, int4_tensor_hold_out=hold_out)
    assert verdict.status is status
    assert verdict.observed is None
    if status is Status.FAIL:
        assert verdict.remedy is not None
        assert "int4/tensor" in verdict.remedy


def test_without_recipes_there_is_nothing_to_compare() -> None:
    policy = make_recipes_policy()
    evidence = make_evidence(policy=policy)
    assert {judge_one(check, evidence, policy).status for check in (QUALITY, GAIN)} == {Status.SKIPPED}


def test_a_model_that_both_ways_of_rounding_break_fails_both_checks() -> None:
    evidence = make_failing_evidence("specimen")
    assert {judge_one(check, evidence).status for check in (QUALITY, GAIN)} == {Status.FAIL}
