from __future__ import annotations

import math

import pytest
from support.evidence import SUPER_WEIGHT, make_evidence, make_location, make_policy

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.super_weight_located import SuperWeightLocatedLimits
from sw_audit.policy.policy import Expectation, ModelPolicy, Policy
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status, Verdict


def judge_outcome(outcome: Outcome, expect: Expectation) -> Verdict:
    policy = make_policy().model_copy(update={"expect": expect})
    return judge_result(make_evidence(outcome=outcome), policy, ["super-weight-located"])[0]


def judge_weights(*layers: int, limits: SuperWeightLocatedLimits | None = None) -> Verdict:
    weights = tuple(
        SUPER_WEIGHT.model_copy(update={"layer": layer, "column": column}) for column, layer in enumerate(layers)
    )
    location = make_location().model_copy(update={"super_weights": weights})
    policy = Policy(checks=CheckLimits({"super-weight-located": limits or SuperWeightLocatedLimits()}))
    return judge_result(make_evidence(location=location), policy, ["super-weight-located"])[0]


@pytest.mark.parametrize(
    ("outcome", "expect", "status"),
    [
        (Outcome.LOCATED, "some", Status.PASS),
        (Outcome.LOCATED, "any", Status.PASS),
        (Outcome.LOCATED, "none", Status.FAIL),
        (Outcome.DISTRIBUTED, "some", Status.FAIL),
        (Outcome.DISTRIBUTED, "any", Status.SKIPPED),
        (Outcome.DISTRIBUTED, "none", Status.FAIL),
        (Outcome.NONE, "some", Status.FAIL),
        (Outcome.NONE, "any", Status.SKIPPED),
        (Outcome.NONE, "none", Status.PASS),
    ],
)
def test_what_is_expected_decides_what_an_outcome_means(
    outcome: Outcome, expect: Expectation, status: Status
) -> None:
    verdict = judge_outcome(outcome, expect)
    assert verdict.status is status
    assert (verdict.remedy is not None) == (status is Status.FAIL)
    if outcome is not Outcome.LOCATED:
        assert make_location(outcome).because in verdict.because


def test_a_model_without_super_weights_is_told_how_to_say_so() -> None:
    remedy = judge_outcome(Outcome.NONE, "some").remedy
    assert remedy is not None
    assert '`expect = "none"`' in remedy


def test_a_model_s_own_expectation_wins_over_the_policy_s() -> None:
    policy = Policy(models=(ModelPolicy(source="x", id="specimen", expect="none"),))
    evidence = make_evidence(outcome=Outcome.NONE)
    assert judge_result(evidence, policy, ["super-weight-located"])[0].status is Status.PASS
    assert judge_result(evidence, Policy(), ["super-weight-located"])[0].status is Status.FAIL


def test_one_early_super_weight_passes_and_is_counted() -> None:
    verdict = judge_weights(1)
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.limit) == (1, 6)
    assert (verdict.low, verdict.high, verdict.protocol) == (None, None, None)


def test_more_super_weights_than_allowed_fail() -> None:
    assert judge_weights(*[1] * 6).status is Status.PASS
    verdict = judge_weights(*[1] * 7)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit) == (7, 6)
    assert verdict.remedy is not None
    assert "maximum_count" in verdict.remedy


def test_early_is_the_ceiling_of_the_fraction() -> None:
    # ceil(8 / 3) = 3: layers 0, 1 and 2 are early.
    assert judge_weights(0, 2).status is Status.PASS
    verdict = judge_weights(0, 3)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit, verdict.quantity) == (3, 2, "deepest layer of a super weight")
    assert verdict.remedy is not None
    assert "early_fraction" in verdict.remedy


def test_a_fraction_that_falls_on_a_layer_is_not_pushed_beyond_it() -> None:
    # A hair more than 5/8 of 8 layers is five layers and a rounding error, not six.
    limits = SuperWeightLocatedLimits(early_fraction=math.nextafter(0.625, 1))
    assert limits.early_fraction * 8 > 5
    assert judge_weights(4, limits=limits).status is Status.PASS
    assert judge_weights(5, limits=limits).status is Status.FAIL
