from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import (
    HEALTHY,
    PARAMETER,
    make_evidence,
    make_failing_evidence,
    make_none_evidence,
    make_policy,
    make_protocol,
)

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.placebo_harmless import PlaceboHarmlessLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, OTHER_OUTLIERS, PRUNED, RESTORED, Placebo
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

QUALITY = {
    "other-outliers-harmless": OTHER_OUTLIERS.name,
    "placebo-harmless": Placebo(control="random", draw=1).name,
}


def judge_one(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    (verdict,) = judge_result(evidence, policy or make_policy(), [check])
    return verdict


def test_a_collapse_passes_with_its_ratio_interval_and_coordinate() -> None:
    verdict = judge_one("prune-collapses", make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(213.6)
    assert verdict.low is not None
    assert verdict.high is not None
    assert 10 < verdict.low < 213.6 < verdict.high
    assert verdict.limit == 10
    assert verdict.quantity == "perplexity ratio"
    assert verdict.coordinates == (f"{PARAMETER}[37, 211]",)
    assert verdict.protocol == make_protocol().signature
    assert verdict.remedy is None
    assert "1,335" in verdict.because
    assert "95 % interval" in verdict.because


def test_no_collapse_fails_and_names_the_key_to_change() -> None:
    verdict = judge_one("prune-collapses", make_failing_evidence())
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert "[checks.prune-collapses] minimum_ratio" in verdict.remedy


def test_a_pruned_model_that_is_not_finite_has_collapsed() -> None:
    verdict = judge_one("prune-collapses", make_evidence(ratios={PRUNED.name: None}))
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.low, verdict.high) == (None, None, None)
    assert "not finite" in verdict.because


def test_a_loss_too_large_for_a_perplexity_has_collapsed_too() -> None:
    evidence = make_evidence()
    measurements = []
    for found in evidence.measurements:
        loss = found.loss
        if found.arm.name == PRUNED.name:
            loss = loss.model_copy(update={"nats": tuple(800.0 * count for count in loss.tokens)})
        measurements.append(found.model_copy(update={"loss": loss}))
    evidence = evidence.model_copy(update={"measurements": tuple(measurements)})
    assert judge_one("prune-collapses", evidence).status is Status.PASS
    assert judge_one("restored-activation-heals", evidence).status is Status.INCONCLUSIVE


def test_a_model_that_is_not_finite_before_pruning_proves_nothing() -> None:
    evidence = make_evidence(ratios={**HEALTHY, BASELINE.name: None})
    for check in ("prune-collapses", "restored-activation-heals"):
        verdict = judge_one(check, evidence)
        assert verdict.status is Status.INCONCLUSIVE
        assert verdict.remedy
    for check in ("other-outliers-harmless", "placebo-harmless", "rtn-holdout-quality"):
        assert judge_one(check, evidence).status is Status.FAIL


@pytest.mark.parametrize("check", QUALITY)
def test_a_quality_check_fails_where_its_arm_is_not_finite(check: str) -> None:
    verdict = judge_one(check, make_evidence(ratios={QUALITY[check]: None}))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None
    assert "not finite" in verdict.because


@pytest.mark.parametrize(
    ("check", "arm"),
    [
        *QUALITY.items(),
        ("prune-collapses", PRUNED.name),
        ("restored-activation-heals", RESTORED.name),
        ("prune-collapses", BASELINE.name),
    ],
)
def test_an_arm_that_was_not_measured_is_inconclusive(check: str, arm: str) -> None:
    verdict = judge_one(check, make_evidence(omit=(arm,)))
    assert verdict.status is Status.INCONCLUSIVE
    assert f"{arm!r} was not measured" in verdict.because
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("Run the audit again")


def test_figures_of_another_protocol_are_never_compared() -> None:
    evidence = make_evidence()
    other = evidence.model_copy(update={"protocol": make_protocol(seed=9)})
    assert judge_one("prune-collapses", evidence).status is Status.PASS
    assert judge_one("prune-collapses", other).status is Status.INCONCLUSIVE


def test_arms_scored_on_different_tokens_are_never_compared() -> None:
    evidence, shorter = make_evidence(), make_evidence(windows=16)
    mixed = [
        shorter.measured(PRUNED.name) if one.arm.name == PRUNED.name else one for one in evidence.measurements
    ]
    signature = evidence.protocol.signature
    moved = tuple(one.model_copy(update={"protocol": signature}) for one in mixed if one is not None)
    verdict = judge_one("prune-collapses", evidence.model_copy(update={"measurements": moved}))
    assert verdict.status is Status.INCONCLUSIVE
    assert "not scored on the same tokens" in verdict.because


def test_too_few_windows_give_a_figure_but_no_interval_and_no_verdict() -> None:
    verdict = judge_one("prune-collapses", make_evidence(windows=7))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed == pytest.approx(213.6)
    assert verdict.low is None
    assert verdict.remedy is not None
    assert "`[corpus] windows`" in verdict.remedy
    assert judge_one("prune-collapses", make_evidence(windows=8)).status is Status.PASS


def test_an_interval_across_the_limit_is_inconclusive() -> None:
    verdict = judge_one("other-outliers-harmless", make_evidence(ratios={OTHER_OUTLIERS.name: 1.2}))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1.2 < verdict.high


@given(ratio=st.floats(1.0, 1e9))
@settings(max_examples=8, deadline=None)
def test_a_stronger_collapse_is_never_a_worse_verdict(ratio: float) -> None:
    order = [Status.FAIL, Status.INCONCLUSIVE, Status.PASS]
    ranks = [
        order.index(judge_one("prune-collapses", make_evidence(ratios={PRUNED.name: one})).status)
        for one in (ratio, 2 * ratio)
    ]
    assert ranks == sorted(ranks)


def test_other_outliers_are_judged_without_a_super_weight_and_their_number_is_told() -> None:
    verdict = judge_one("other-outliers-harmless", make_none_evidence("specimen"))
    assert verdict.status is Status.PASS
    assert "2 other large weights" in verdict.because
    assert verdict.coordinates == ()


def test_all_draws_of_all_kinds_are_held_and_the_worst_decides() -> None:
    verdict = judge_one("placebo-harmless", make_failing_evidence())
    assert verdict.status is Status.FAIL
    assert len(verdict.findings) == 4 * 3
    assert [one.label for one in verdict.findings if one.status is Status.FAIL] == ["placebo/same-row/2"]
    worst = next(one for one in verdict.findings if one.label == "placebo/same-row/2")
    assert (verdict.observed, verdict.low, verdict.high) == (worst.observed, worst.low, worst.high)
    assert worst.observed == pytest.approx(1.38)


def test_a_missing_draw_leaves_the_placebos_inconclusive() -> None:
    policy = Policy(checks=CheckLimits({"placebo-harmless": PlaceboHarmlessLimits(draws=4)}))
    verdict = judge_one("placebo-harmless", make_evidence(), policy)
    assert verdict.status is Status.INCONCLUSIVE
    assert [one.status for one in verdict.findings].count(Status.INCONCLUSIVE) == 4


def test_the_healed_share_is_of_the_lost_nats() -> None:
    verdict = judge_one("restored-activation-heals", make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx((math.log(213.6) - math.log(9.4)) / math.log(213.6))


def test_the_paper_s_figures_give_a_share_of_a_tenth() -> None:
    ratios = {PRUNED.name: 1211.11 / 5.67, RESTORED.name: 720.57 / 5.67}
    verdict = judge_one("restored-activation-heals", make_evidence(ratios=ratios))
    assert verdict.observed == pytest.approx(0.0968, abs=1e-3)
    assert verdict.status is Status.PASS


def test_restoring_that_heals_nothing_fails() -> None:
    verdict = judge_one(
        "restored-activation-heals", make_evidence(ratios={PRUNED.name: 200.0, RESTORED.name: 200.0})
    )
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert "minimum_share" in verdict.remedy


@pytest.mark.parametrize("ratio", [1.0, 0.9, 1.001])
def test_without_damage_there_is_nothing_to_heal(ratio: float) -> None:
    verdict = judge_one(
        "restored-activation-heals", make_evidence(ratios={PRUNED.name: ratio, RESTORED.name: 0.9})
    )
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is None
    assert verdict.remedy is not None
    assert "prune-collapses" in verdict.remedy


@pytest.mark.parametrize(
    ("pruned", "restored", "status"),
    [(None, 9.0, Status.INCONCLUSIVE), (200.0, None, Status.FAIL), (None, None, Status.INCONCLUSIVE)],
)
def test_healing_of_what_is_not_finite(pruned: float | None, restored: float | None, status: Status) -> None:
    evidence = make_evidence(ratios={PRUNED.name: pruned, RESTORED.name: restored})
    assert judge_one("restored-activation-heals", evidence).status is status
