from __future__ import annotations

import math

import pytest
from support.evidence import SUPER_WEIGHT, make_evidence, make_location

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.super_weight_located import SuperWeightLocatedLimits
from sw_audit.policy.policy import Expectation, Policy
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status, Verdict


def judge_outcome(outcome: Outcome) -> Verdict:
    return judge_result(make_evidence(outcome=outcome), Policy(), ["super-weight-located"])[0]


def judge_weights(*layers: int, limits: SuperWeightLocatedLimits | None = None) -> Verdict:
    weights = tuple(
        SUPER_WEIGHT.model_copy(update={"layer": layer, "column": column}) for column, layer in enumerate(layers)
    )
    location = make_location().model_copy(update={"super_weights": weights})
    policy = Policy(checks=CheckLimits({"super-weight-located": limits or SuperWeightLocatedLimits()}))
    return judge_result(make_evidence(location=location), policy, ["super-weight-located"])[0]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.LOCATED, Status.PASS), (Outcome.DISTRIBUTED, Status.FAIL), (Outcome.NONE, Status.SKIPPED)],
)
def test_a_massive_activation_without_super_weights_is_against_the_law_and_none_at_all_is_not(
    outcome: Outcome, status: Status
) -> None:
    verdict = judge_outcome(outcome)
    assert verdict.status is status
    assert (verdict.remedy is not None) == (status is Status.FAIL)
    if outcome is not Outcome.LOCATED:
        assert make_location(outcome).because in verdict.because


@pytest.mark.parametrize("expect", ["some", "none", "any"])
def test_what_the_policy_expects_is_no_matter_of_the_law(expect: Expectation) -> None:
    policy = Policy(expect=expect)
    assert judge_result(make_evidence(), policy, ["super-weight-located"])[0].status is Status.PASS


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


def test_early_is_before_the_middle_of_the_depth() -> None:
    # Of eight layers, 0 to 3 are before the middle.
    assert judge_weights(0, 3).status is Status.PASS
    verdict = judge_weights(0, 4)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit, verdict.quantity) == (4, 3, "deepest layer of a super weight")
    assert verdict.remedy is not None
    assert "early_fraction" in verdict.remedy


def test_early_is_the_ceiling_of_the_fraction() -> None:
    # ceil(8 / 3) = 3: layers 0, 1 and 2 are early.
    limits = SuperWeightLocatedLimits(early_fraction=1 / 3)
    assert judge_weights(0, 2, limits=limits).status is Status.PASS
    assert judge_weights(0, 3, limits=limits).status is Status.FAIL


def test_the_share_of_depth_is_told() -> None:
    verdict = judge_weights(0, 3)
    assert "38% of the layers come before it" in verdict.because
    [share] = [finding for finding in verdict.findings if finding.label == "share of depth"]
    assert (share.observed, share.limit, share.status) == (3 / 8, None, Status.PASS)


def test_a_fraction_that_falls_on_a_layer_is_not_pushed_beyond_it() -> None:
    # A hair more than 5/8 of 8 layers is five layers and a rounding error, not six.
    limits = SuperWeightLocatedLimits(early_fraction=math.nextafter(0.625, 1))
    assert limits.early_fraction * 8 > 5
    assert judge_weights(4, limits=limits).status is Status.PASS
    assert judge_weights(5, limits=limits).status is Status.FAIL
