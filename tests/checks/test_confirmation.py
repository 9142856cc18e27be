from __future__ import annotations

import pytest
from support.evidence import HEALTHY, make_evidence, make_none_evidence, make_policy

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, CONTROL_KINDS, FLIPPED, PRUNED, Placebo, Subset
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

PLACEBOS = [Placebo(control=kind, draw=draw).name for kind in CONTROL_KINDS for draw in (1, 2, 3)]
DOSES = {"dose/0.1": 118.0, "dose/0.25": 31.0, "dose/0.5": 1.31, "dose/0.75": 1.02}


def judge_one(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    (verdict,) = judge_result(evidence, policy or make_policy(), [check])
    return verdict


@pytest.mark.parametrize(("harmful", "p"), [(0, 1 / 13), (1, 2 / 13), (2, 3 / 13), (12, 1.0)])
def test_the_p_value_is_one_more_than_the_placebos_above_over_one_more_than_all(harmful: int, p: float) -> None:
    evidence = make_evidence(ratios={**HEALTHY, **dict.fromkeys(PLACEBOS[:harmful], 300.0)})
    verdict = judge_one("effect-exceeds-placebos", evidence)
    assert verdict.observed == p
    assert verdict.status is (Status.PASS if harmful == 0 else Status.FAIL)
    assert (verdict.low, verdict.high, verdict.limit) == (None, None, 0.1)


def test_a_placebo_that_does_exactly_as_much_counts_as_above() -> None:
    evidence = make_evidence()
    pruned = evidence.measured(PRUNED.name)
    assert pruned is not None
    tied = tuple(
        one.model_copy(update={"loss": pruned.loss}) if one.arm.name == PLACEBOS[4] else one
        for one in evidence.measurements
    )
    verdict = judge_one("effect-exceeds-placebos", evidence.model_copy(update={"measurements": tied}))
    assert verdict.observed == 2 / 13


def test_placebos_that_hold_the_same_scalars_count_once() -> None:
    evidence = make_evidence()
    first = evidence.measured(PLACEBOS[0])
    assert first is not None
    same = tuple(
        one.model_copy(update={"arm": one.arm.model_copy(update={"acts": first.arm.acts})})
        if one.arm.name in PLACEBOS[1:3]
        else one
        for one in evidence.measurements
    )
    verdict = judge_one("effect-exceeds-placebos", evidence.model_copy(update={"measurements": same}))
    assert verdict.observed == 1 / 11
    assert verdict.status is Status.PASS


def test_too_few_placebos_for_any_rank_to_pass_decide_nothing_and_the_remedy_names_the_draws() -> None:
    policy = Policy.model_validate({"checks": {"placebo-harmless": {"draws": 2}}})
    verdict = judge_one("effect-exceeds-placebos", make_evidence(policy=policy), policy)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed == 1 / 9
    assert verdict.remedy is not None
    assert "[checks.placebo-harmless] draws" in verdict.remedy


def test_more_draws_let_a_stricter_limit_pass() -> None:
    checks = {"placebo-harmless": {"draws": 5}, "effect-exceeds-placebos": {"maximum_p": 0.05}}
    policy = Policy.model_validate({"checks": checks})
    verdict = judge_one("effect-exceeds-placebos", make_evidence(policy=policy), policy)
    assert (verdict.status, verdict.observed) == (Status.PASS, 1 / 21)


@pytest.mark.parametrize("arm", [BASELINE.name, PRUNED.name, PLACEBOS[7]])
def test_no_rank_is_taken_where_an_arm_is_missing(arm: str) -> None:
    verdict = judge_one("effect-exceeds-placebos", make_evidence(omit=(arm,)))
    assert verdict.status is Status.INCONCLUSIVE
    assert repr(arm) in verdict.because


def test_an_infinite_effect_is_above_all_finite_ones_and_ties_with_another() -> None:
    alone = make_evidence(ratios={**HEALTHY, PRUNED.name: None})
    assert judge_one("effect-exceeds-placebos", alone).observed == 1 / 13
    both = make_evidence(ratios={**HEALTHY, PRUNED.name: None, PLACEBOS[0]: None})
    assert judge_one("effect-exceeds-placebos", both).observed == 2 / 13
    neither = make_evidence(ratios={**HEALTHY, BASELINE.name: None})
    assert judge_one("effect-exceeds-placebos", neither).status is Status.INCONCLUSIVE


def test_the_rank_of_every_part_and_of_the_flipped_sign_is_reported_and_decides_nothing() -> None:
    ratios = {**HEALTHY, PLACEBOS[0]: 1.5, PLACEBOS[1]: 100.0, FLIPPED.name: 1.2}
    evidence = make_evidence(ratios=ratios)
    part = evidence.measured(FLIPPED.name)
    assert part is not None
    alone = part.model_copy(
        update={"arm": part.arm.model_copy(update={"purpose": Subset(part="alone", number=1)})}
    )
    with_part = evidence.model_copy(update={"measurements": (*evidence.measurements, alone)})
    verdict = judge_one("effect-exceeds-placebos", with_part)
    # Two of twelve controls do more than multiplying by 1.2, none more than the set does.
    assert {one.label: one.observed for one in verdict.findings} == {FLIPPED.name: 3 / 13, "alone/1": 3 / 13}
    assert {one.status for one in verdict.findings} == {Status.SKIPPED}
    assert (verdict.status, verdict.observed) == (Status.PASS, 1 / 13)
    assert "flipping their sign" in verdict.findings[0].because


def test_damage_that_shrinks_as_more_is_left_passes_on_the_flattest_step() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence())
    assert verdict.status is Status.PASS
    assert [one.label for one in verdict.findings] == [
        "0.1 over zeroed", "0.25 over 0.1", "0.5 over 0.25", "0.75 over 0.5", "whole over 0.75",
    ]  # fmt: skip
    assert verdict.observed == pytest.approx(1 / 1.02)
    assert verdict.findings[0].observed == pytest.approx(118 / 213.6)


def test_more_left_and_more_damage_fails_and_says_where() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/0.25": 200.0}))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(200 / 118)
    assert "0.25 over 0.1" in verdict.because


def test_amplifying_decides_nothing() -> None:
    verdict = judge_one("damage-follows-dose", make_evidence(ratios={**HEALTHY, "dose/3": 50.0}))
    assert verdict.status is Status.PASS
    assert not any("3" in one.label for one in verdict.findings)


def test_where_less_left_is_not_finite_nothing_is_lost_with_it() -> None:
    evidence = make_evidence(ratios={**HEALTHY, PRUNED.name: None, "dose/0.1": None})
    verdict = judge_one("damage-follows-dose", evidence)
    assert verdict.status is Status.PASS
    first, *others = verdict.findings
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


@pytest.mark.parametrize("check", ["effect-exceeds-placebos", "damage-follows-dose"])
def test_without_a_super_weight_there_is_no_cause_to_confirm(check: str) -> None:
    assert judge_one(check, make_none_evidence()).status is Status.SKIPPED


def test_the_collapse_reports_every_part_and_dose_with_its_interval_and_is_not_decided_by_them() -> None:
    verdict = judge_one("prune-collapses", make_evidence(ratios={**HEALTHY, FLIPPED.name: 1.0, "dose/3": 9000.0}))
    reported = {one.label: one for one in verdict.findings}
    assert {FLIPPED.name, *DOSES, "dose/1.5", "dose/2", "dose/3"} == set(reported)
    assert {one.status for one in reported.values()} == {Status.SKIPPED}
    assert reported["dose/0.25"].observed == pytest.approx(31.0)
    assert reported["dose/0.25"].low is not None
    assert verdict.status is Status.PASS
