from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_policy

from sw_audit.checks.accuracy_falls_to_chance import AccuracyFallsToChanceLimits
from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict


def judge_accuracy(evidence: ModelResult, lost: float = 0.6) -> Verdict:
    limits = CheckLimits({"accuracy-falls-to-chance": AccuracyFallsToChanceLimits(minimum_lost=lost)})
    return judge_result(evidence, Policy(checks=limits), ["accuracy-falls-to-chance"])[0]


def test_a_pruned_model_that_guesses_has_lost_everything_above_chance() -> None:
    verdict = judge_accuracy(make_evidence())
    assert verdict.status is Status.PASS
    # 0.9 right before, 0.25 after, 0.25 by guessing: all of the 0.65 above guessing is gone.
    assert verdict.observed == pytest.approx(1.0)
    assert verdict.limit == 0.6
    assert verdict.low is not None
    assert verdict.low >= 0.6


@pytest.mark.parametrize(
    ("pruned", "status", "lost"),
    [
        (0.0, Status.PASS, 0.9 / 0.65),
        (0.35, Status.PASS, 0.55 / 0.65),
        (0.5, Status.INCONCLUSIVE, 0.4 / 0.65),
        (0.8, Status.FAIL, 0.1 / 0.65),
        (0.9, Status.FAIL, 0.0),
    ],
)
def test_how_much_ability_is_lost_decides(pruned: float, status: Status, lost: float) -> None:
    verdict = judge_accuracy(make_evidence(accuracy={PRUNED.name: pruned}))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(lost)
    assert (verdict.remedy is None) == (status is Status.PASS)


def test_the_policy_moves_the_limit() -> None:
    evidence = make_evidence(accuracy={PRUNED.name: 0.6})
    assert judge_accuracy(evidence).status is Status.FAIL
    assert judge_accuracy(evidence, lost=0.2).status is Status.PASS


@pytest.mark.parametrize("before", [0.2, 0.27])
def test_a_model_that_guesses_before_pruning_has_no_ability_to_lose(before: float) -> None:
    verdict = judge_accuracy(make_evidence(accuracy={BASELINE.name: before}))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None
    assert "[corpus] choices" in verdict.remedy


def test_without_items_accuracy_is_skipped_but_a_missing_arm_is_inconclusive() -> None:
    assert judge_accuracy(make_evidence(accuracy={PRUNED.name: None})).status is Status.SKIPPED
    assert judge_accuracy(make_evidence(omit=(PRUNED.name,))).status is Status.INCONCLUSIVE


def test_too_few_items_give_no_verdict() -> None:
    verdict = judge_accuracy(make_evidence(items=make_policy().minimum_windows - 1))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is not None
    assert "3 items give no interval" in verdict.because
