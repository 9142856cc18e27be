from __future__ import annotations

import pytest
from support.evidence import make_evidence
from support.verdicts import judge_one, judge_recipes, make_recipes_policy

from sw_audit.record.arm import Arm, Custom
from sw_audit.record.verdict import Status

QUALITY, GAIN = "rtn-holdout-quality", "holdout-beats-plain-rtn"


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
        # Where rows share no scale, hardly anything changes, and nothing is compared.
        (("int4/row", "int4/group64", "int4/8x8"), "int4/8x8"),
        (("int4/64x64", "int8/64x64"), "int4/64x64"),
    ],
)
def test_the_coarsest_recipe_shares_one_scale_among_most_weights(recipes: tuple[str, ...], coarsest: str) -> None:
    policy = make_recipes_policy(*recipes)
    verdict = judge_one(GAIN, make_evidence(policy=policy), policy)
    assert verdict.findings[0].label == f"gain at {coarsest}"


def test_no_gain_at_the_coarsest_recipe_fails() -> None:
    policy = make_recipes_policy("int4/tensor")
    verdict = judge_recipes(GAIN, policy, int4_tensor_plain=2.0, int4_tensor_hold_out=3.0)
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
    [(1.0, Status.PASS), (1.05, Status.PASS), (1.5, Status.FAIL)],
)
def test_harm_at_a_finer_recipe_counts_where_it_is_certain(hold_out: float, status: Status) -> None:
    policy = make_recipes_policy("int4/8x8", "int4/tensor", maximum_harm=1.05)
    verdict = judge_recipes(
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
    [(None, 1.2, Status.PASS), (5.0, None, Status.FAIL), (None, None, Status.INCONCLUSIVE)],
)
def test_plain_rounding_that_is_not_finite_is_beaten_but_not_by_another_such(
    plain: float | None, hold_out: float | None, status: Status
) -> None:
    policy = make_recipes_policy("int4/tensor")
    verdict = judge_recipes(GAIN, policy, int4_tensor_plain=plain, int4_tensor_hold_out=hold_out)
    assert verdict.status is status
    assert verdict.observed is None
    if status is Status.FAIL:
        assert verdict.remedy is not None
        assert "int4/tensor" in verdict.remedy


def test_the_coarsest_recipe_that_does_not_destroy_the_model_either_way_decides_the_gain() -> None:
    ratios = {"plain": (2.0, 3_400_000.0, 34_000_000.0), "hold_out": (1.7, 7.6, 91_000_000.0)}
    named = {
        f"int4_{block}_{way}": ratio
        for way, of in ratios.items()
        for block, ratio in zip(("16x16", "64x64", "tensor"), of, strict=True)
    }
    verdict = judge_recipes(GAIN, make_recipes_policy("int4/16x16", "int4/64x64", "int4/tensor"), **named)
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(3_400_000 / 7.6)
    labels = ["gain at int4/64x64", "no harm at int4/16x16", "int4/tensor"]
    assert [one.label for one in verdict.findings] == labels
    left_out = verdict.findings[-1]
    assert (left_out.status, left_out.observed) == (Status.SKIPPED, None)
    assert "both arms are destroyed" in left_out.because


def test_without_recipes_there_is_nothing_to_compare() -> None:
    policy = make_recipes_policy()
    evidence = make_evidence(policy=policy)
    assert {judge_one(check, evidence, policy).status for check in (QUALITY, GAIN)} == {Status.SKIPPED}
