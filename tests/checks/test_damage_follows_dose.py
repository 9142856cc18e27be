from __future__ import annotations

import pytest
from support.evidence import HEALTHY, make_evidence
from support.verdicts import judge_one

from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.verdict import Status

DOSES = {"dose/0.1": 118.0, "dose/0.25": 31.0, "dose/0.5": 1.31, "dose/0.75": 1.02}


def test_damage_that_shrinks_as_more_is_left_passes_on_the_flattest_step() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence())
    assert verdict.status is Status.PASS
    assert [one.label for one in verdict.findings] == [
        "0.1 over zeroed", "0.25 over 0.1", "0.5 over 0.25", "0.75 over 0.5", "whole over 0.75",
    ]  # fmt: skip
    assert verdict.observed == pytest.approx(1 / 1.02)
    assert verdict.findings[1].observed == pytest.approx(31 / 118)


def test_two_destroyed_doses_are_not_ordered() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/0.1": 900.0}))
    first, *others = verdict.findings
    assert (first.label, first.status, first.observed) == ("0.1 over zeroed", Status.SKIPPED, None)
    assert "both arms are destroyed" in first.because
    assert {one.status for one in others} == {Status.PASS}


def test_more_left_and_more_damage_fails_and_says_where() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/0.5": 50.0}))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(50 / 31)
    assert "0.5 over 0.25" in verdict.because


def test_amplifying_decides_nothing() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/3": 50.0}))
    assert verdict.status is Status.PASS
    assert not any("3" in one.label for one in verdict.findings)


def test_where_less_left_is_not_finite_nothing_is_lost_with_it() -> None:
    evidence = make_evidence(ratios={**HEALTHY, PRUNED.name: None, "dose/0.1": None})
    verdict = judge_one("damage-follows-dose", evidence)
    assert verdict.status is Status.PASS
    both, first, *others = verdict.findings
    assert (both.label, both.status) == ("0.1 over zeroed", Status.SKIPPED)
    assert (first.label, first.observed) == ("0.25 over 0.1", 0.0)
    assert len(others) == 3
    assert verdict.observed == pytest.approx(1 / 1.02)


def test_where_more_left_is_not_finite_the_step_fails() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/0.5": None}))
    assert verdict.status is Status.FAIL
    assert "0.5 over 0.25" in verdict.because


def test_a_model_that_is_not_finite_has_no_dose_curve() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, BASELINE.name: None}))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy


def test_a_dose_that_was_not_measured_decides_nothing() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(omit=("dose/0.5",)))
    assert verdict.status is Status.INCONCLUSIVE


def test_a_policy_without_confirmation_skips_the_dose_with_the_reason() -> None:
    policy = Policy.model_validate({"confirmation": {"enabled": False}})
    verdict = judge_one("damage-follows-dose", make_evidence(omit=tuple(DOSES)), policy)
    assert verdict.status is Status.SKIPPED
    assert "[confirmation] enabled" in verdict.because
