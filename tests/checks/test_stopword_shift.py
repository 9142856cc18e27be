from __future__ import annotations

import pytest
from support.evidence import make_evidence

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.stopword_shift import StopwordShiftLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict


def judge_shift(evidence: ModelResult, low: float | None = None, high: float | None = None) -> Verdict:
    limits = CheckLimits({"stopword-shift": StopwordShiftLimits(minimum_ratio=low, maximum_ratio=high)})
    return judge_result(evidence, Policy(checks=limits), ["stopword-shift"])[0]


def test_without_a_limit_the_shift_is_measured_and_reported() -> None:
    verdict = judge_shift(make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.limit is None
    assert verdict.observed == pytest.approx(0.58 / 0.31, rel=0.05)
    assert verdict.low is not None
    assert "no limit is set" in verdict.because


def test_a_fall_is_reported_as_well_as_a_rise() -> None:
    verdict = judge_shift(make_evidence(stop_mass={PRUNED.name: 0.05}))
    assert verdict.status is Status.PASS
    assert verdict.observed is not None
    assert verdict.observed < 0.2


@pytest.mark.parametrize(
    ("low", "high", "status", "limit"),
    [
        (1.2, None, Status.PASS, 1.2),
        (None, 5.0, Status.PASS, 5.0),
        (1.2, 5.0, Status.PASS, 1.2),
        (3.0, None, Status.FAIL, 3.0),
        (1.2, 1.5, Status.FAIL, 1.5),
        (1.86, 5.0, Status.INCONCLUSIVE, 1.86),
    ],
)
def test_limits_of_the_policy_are_held(
    low: float | None, high: float | None, status: Status, limit: float
) -> None:
    verdict = judge_shift(make_evidence(), low, high)
    assert (verdict.status, verdict.limit) == (status, limit)
    assert (verdict.remedy is None) == (status is Status.PASS)


def test_a_mass_that_is_not_finite_fails_even_without_a_limit() -> None:
    verdict = judge_shift(make_evidence(ratios={PRUNED.name: None}))
    assert verdict.status is Status.FAIL
    assert verdict.remedy


def test_no_mass_before_pruning_is_no_basis_for_a_ratio() -> None:
    for evidence in (make_evidence(stop_mass={BASELINE.name: 0.0}), make_evidence(ratios={BASELINE.name: None})):
        verdict = judge_shift(evidence)
        assert verdict.status is Status.INCONCLUSIVE
        assert verdict.remedy is not None
        assert "stop_words" in verdict.remedy


def test_the_same_mass_in_every_window_is_a_ratio_of_exactly_one() -> None:
    evidence = make_evidence()
    baseline = evidence.measured(BASELINE.name)
    assert baseline is not None
    measurements = tuple(
        one.model_copy(update={"stop_words": baseline.stop_words}) if one.arm.name == PRUNED.name else one
        for one in evidence.measurements
    )
    verdict = judge_shift(evidence.model_copy(update={"measurements": measurements}))
    assert (verdict.observed, verdict.low, verdict.high) == (1.0, 1.0, 1.0)


def test_without_stop_words_the_shift_is_skipped_but_a_missing_arm_is_inconclusive() -> None:
    assert judge_shift(make_evidence(stop_mass={PRUNED.name: None})).status is Status.SKIPPED
    assert judge_shift(make_evidence(omit=(PRUNED.name,))).status is Status.INCONCLUSIVE
    assert judge_shift(make_evidence(windows=3)).status is Status.INCONCLUSIVE
