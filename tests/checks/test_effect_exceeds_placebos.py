from __future__ import annotations

import pytest
from support.evidence import HEALTHY, make_evidence
from support.verdicts import judge_one

from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, CONTROL_KINDS, FLIPPED, PRUNED, Placebo, Subset
from sw_audit.record.verdict import Status

PLACEBOS = [Placebo(control=kind, draw=draw).name for kind in CONTROL_KINDS for draw in (1, 2, 3)]


@pytest.mark.parametrize(("harmful", "p"), [(0, 1 / 13), (1, 2 / 13), (2, 3 / 13), (12, 1.0)])
def test_the_p_value_is_one_more_than_the_placebos_above_over_one_more_than_all(harmful: int, p: float) -> None:
    ratios = {**HEALTHY, PRUNED.name: 50.0, **dict.fromkeys(PLACEBOS[:harmful], 90.0)}
    verdict = judge_one("effect-exceeds-placebos", make_evidence(ratios=ratios))
    assert verdict.observed == p
    assert verdict.status is (Status.PASS if harmful == 0 else Status.FAIL)
    assert (verdict.low, verdict.high, verdict.limit) == (None, None, 0.1)


@pytest.mark.parametrize("harm", [101.0, 300.0, None])
def test_a_control_that_destroys_the_model_as_well_cannot_be_ranked(harm: float | None) -> None:
    verdict = judge_one("effect-exceeds-placebos", make_evidence(ratios={**HEALTHY, PLACEBOS[3]: harm}))
    assert (verdict.status, verdict.observed) == (Status.INCONCLUSIVE, 2 / 13)
    assert "1 of them destroys the model as well" in verdict.because
    assert verdict.counts == {"controls": 12, "at least as harmful": 1, "destroyed as well": 1}


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
