from __future__ import annotations

from typing import Any

import pytest
from support.evidence import make_evidence, make_failing_evidence
from support.verdicts import judge_one, make_activation_policy

from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status

QUALITY, GAP = "activation-holdout-quality", "holdout-closes-gap"


def test_a_failing_model_fails_both() -> None:
    evidence = make_failing_evidence()
    assert judge_one(QUALITY, evidence).status is Status.FAIL
    verdict = judge_one(GAP, evidence)
    assert verdict.status is Status.FAIL
    assert verdict.observed is not None
    assert verdict.observed > 0.02


@pytest.mark.parametrize("check", [QUALITY, GAP])
def test_too_few_windows_are_inconclusive(check: str) -> None:
    verdict = judge_one(check, make_evidence(windows=3))
    assert verdict.status is Status.INCONCLUSIVE
    assert "3 windows give no interval" in verdict.because


@pytest.mark.parametrize(
    ("activations", "words"),
    [({"enabled": False}, "enabled"), ({"schemes": ()}, "schemes")],
)
@pytest.mark.parametrize("check", [QUALITY, GAP])
def test_what_the_policy_does_not_ask_for_is_skipped(check: str, activations: dict[str, Any], words: str) -> None:
    policy = make_activation_policy({}, **activations)
    verdict = judge_one(check, make_evidence(policy=policy, activations=None), policy)
    assert verdict.status is Status.SKIPPED
    assert words in verdict.because


@pytest.mark.parametrize("check", [QUALITY, GAP])
def test_a_model_whose_activations_cannot_be_rounded_is_skipped_with_the_reason(check: str) -> None:
    setup = ActivationSetup(unroundable="its MLP has experts")
    verdict = judge_one(check, make_evidence(activations=setup))
    assert verdict.status is Status.SKIPPED
    assert "its MLP has experts" in verdict.because


def test_arms_that_are_missing_for_want_of_calibration_text_are_inconclusive_and_say_what_to_do() -> None:
    policy = make_activation_policy(scale="tensor")
    evidence = make_evidence(policy=policy, activations=ActivationSetup(smoothed=40, projections=56))
    arms = {one.arm.name: one for one in evidence.measurements}
    bare = evidence.model_copy(update={"measurements": tuple(one for name, one in arms.items() if name[0] != "w")})
    for check in (QUALITY, GAP):
        verdict = judge_one(check, bare, policy)
        assert verdict.status is Status.INCONCLUSIVE
        assert "no calibration text" in verdict.because
        assert verdict.remedy is not None
        assert "[corpus] source" in verdict.remedy


def test_arms_that_nobody_measured_are_inconclusive() -> None:
    names = ("w8a8 naive", "w8a8 hold-out")
    for check in (QUALITY, GAP):
        verdict = judge_one(check, make_evidence(omit=names))
        assert verdict.status is Status.INCONCLUSIVE
        assert "was not measured" in verdict.because
        assert verdict.remedy is not None
        assert "Run the audit again" in verdict.remedy


def test_without_a_super_weight_there_is_nothing_to_hold_out() -> None:
    for outcome in (Outcome.NONE, Outcome.DISTRIBUTED):
        assert judge_one(GAP, make_evidence(outcome=outcome)).status is Status.SKIPPED
