from __future__ import annotations

import math
from typing import Any

import pytest
from support.evidence import (
    BASELINE_PERPLEXITY,
    HEALTHY,
    SETUP,
    make_evidence,
    make_failing_evidence,
    make_none_evidence,
    make_policy,
)

from sw_audit.checks.activation_holdout_quality import ActivationHoldoutQualityLimits
from sw_audit.checks.holdout_closes_gap import HoldoutClosesGapLimits
from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import Policy
from sw_audit.policy.scheme import ActivationPolicy, ActivationSetup
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

QUALITY, GAP = "activation-holdout-quality", "holdout-closes-gap"


def judge_one(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    return judge_result(evidence, policy or make_policy(), [check])[0]


def judge_ratios(check: str, policy: Policy | None = None, **ratios: float | None) -> Verdict:
    """Judge schemes whose ratios are given as `w8a8_hold_out=...`; the others are healthy."""
    named = {
        name.replace("_", " ", 1).replace("hold_out", "hold-out").replace("_", " "): ratio
        for name, ratio in ratios.items()
    }
    return judge_one(check, make_evidence(ratios={**HEALTHY, **named}, policy=policy), policy)


def make_activation_policy(quality: dict[str, float] | None = None, **activations: Any) -> Policy:
    limits = ActivationHoldoutQualityLimits(maximum_ratio=quality) if quality is not None else None
    checks = CheckLimits({"activation-holdout-quality": limits}) if limits else CheckLimits()
    return Policy(checks=checks, activations=ActivationPolicy(**activations))


def share_of(naive: float, after: float) -> float:
    """Work the share out from perplexity ratios: both are of the same baseline, and nats are their logarithms."""
    return (math.log(naive) - math.log(after)) / math.log(naive)


def test_quality_is_judged_where_there_is_a_limit_and_reported_elsewhere() -> None:
    verdict = judge_one(QUALITY, make_evidence())
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.limit) == (pytest.approx(1.014), 1.05)
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("w8a8", Status.PASS),
        ("w16a4", Status.SKIPPED),
    ]
    assert verdict.findings[1].observed == pytest.approx(1.21)


@pytest.mark.parametrize(
    ("ratio", "status"), [(1.2, Status.FAIL), (1.05, Status.INCONCLUSIVE), (None, Status.FAIL)]
)
def test_quality_fails_above_the_limit_and_is_open_on_it(ratio: float | None, status: Status) -> None:
    verdict = judge_ratios(QUALITY, w8a8_hold_out=ratio)
    assert verdict.status is status
    assert verdict.remedy


def test_the_worst_scheme_decides_by_how_far_it_is_above_its_own_limit() -> None:
    policy = make_activation_policy({"w8a8": 1.001, "w16a4": 3.0})
    verdict = judge_ratios(QUALITY, policy, w8a8_hold_out=1.3, w16a4_hold_out=3.5)
    assert verdict.because.startswith("w8a8: ")


def test_without_a_limit_on_any_scheme_quality_is_reported_and_skipped() -> None:
    verdict = judge_one(QUALITY, make_evidence(), make_activation_policy({}))
    assert verdict.status is Status.SKIPPED
    assert len(verdict.findings) == 2


def test_of_a_model_without_super_weights_quality_is_that_of_the_naive_arm() -> None:
    verdict = judge_one(QUALITY, make_none_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.003)


def test_the_share_is_of_the_nats_between_naive_and_full_precision() -> None:
    verdict = judge_one(GAP, make_evidence())
    assert verdict.status is Status.PASS
    by_label = {one.label: one for one in verdict.findings}
    assert by_label["w8a8 hold-out"].observed == pytest.approx(share_of(1.06, 1.014))
    assert by_label["w16a4 hold-out"].observed == pytest.approx(share_of(1.9, 1.21))
    # The least share decides.
    assert verdict.observed == by_label["w16a4 hold-out"].observed
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < verdict.observed < verdict.high
    assert f"{BASELINE_PERPLEXITY:g}" in verdict.because


def test_smoothquants_share_stands_beside_it_and_decides_nothing() -> None:
    by_label = {one.label: one for one in judge_one(GAP, make_evidence()).findings}
    default = by_label["w16a4 smoothquant, alpha 0.85"]
    assert default.observed == pytest.approx(share_of(1.9, 1.42))
    assert (default.status, default.limit) == (Status.SKIPPED, None)
    assert by_label["w16a4 smoothquant, alpha 0.5 as searched"].observed == pytest.approx(share_of(1.9, 1.35))
    # In W8A8 the search came to the default: it is not said twice.
    assert [label for label in by_label if label.startswith("w8a8 smooth")] == ["w8a8 smoothquant, alpha 0.85"]
    ruined = judge_ratios(GAP, w8a8_smoothquant=None, w16a4_smoothquant=900.0)
    assert ruined.status is Status.PASS
    assert "smoothquant, alpha 0.5 as searched" in judge_one(GAP, make_evidence()).because


@pytest.mark.parametrize(
    ("held", "status"),
    [(1.12, Status.FAIL), (1.059, Status.INCONCLUSIVE), (1.02, Status.PASS), (None, Status.FAIL)],
)
def test_too_small_a_share_fails_and_one_that_straddles_the_limit_is_open(
    held: float | None, status: Status
) -> None:
    policy = make_activation_policy(schemes=("w8a8",))
    verdict = judge_ratios(GAP, policy, w8a8_hold_out=held)
    assert verdict.status is status
    assert (verdict.remedy is None) is (status is Status.PASS)


def test_where_naive_rounding_does_no_certain_harm_there_is_no_gap_to_close() -> None:
    verdict = judge_ratios(GAP, w8a8_naive=1.004, w16a4_naive=1.008)
    assert verdict.status is Status.SKIPPED
    assert "no gap to close" in verdict.because
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("w8a8 naive", Status.SKIPPED),
        ("w16a4 naive", Status.SKIPPED),
    ]
    one = judge_ratios(GAP, w8a8_naive=1.004)
    assert one.status is Status.PASS
    assert one.because.startswith("w16a4 hold-out")


def test_how_much_harm_makes_a_gap_is_a_limit() -> None:
    limits = CheckLimits({"holdout-closes-gap": HoldoutClosesGapLimits(minimum_harm=1.5)})
    verdict = judge_one(GAP, make_evidence(), Policy(checks=limits))
    assert verdict.because.startswith("w16a4 hold-out")
    assert [one.label for one in verdict.findings if one.limit] == ["w16a4 hold-out"]


def test_a_naive_arm_that_is_not_finite_is_closed_by_one_that_is() -> None:
    policy = make_activation_policy(schemes=("w8a8",))
    verdict = judge_ratios(GAP, policy, w8a8_naive=None)
    assert (verdict.status, verdict.observed) == (Status.PASS, 1.0)
    both = judge_ratios(GAP, policy, w8a8_naive=None, w8a8_hold_out=None)
    assert (both.status, both.observed) == (Status.FAIL, None)


def test_a_baseline_that_is_not_finite_leaves_the_gap_open() -> None:
    evidence = make_evidence(ratios={**HEALTHY, "baseline": None})
    verdict = judge_one(GAP, evidence)
    assert verdict.status is Status.INCONCLUSIVE
    assert judge_one(QUALITY, evidence).status is Status.FAIL


def test_a_failing_model_fails_both() -> None:
    evidence = make_failing_evidence()
    assert judge_one(QUALITY, evidence).status is Status.FAIL
    verdict = judge_one(GAP, evidence)
    assert verdict.status is Status.FAIL
    assert verdict.observed is not None
    assert verdict.observed < 0


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


def test_smoothquant_that_does_not_apply_says_so_with_the_reason() -> None:
    setup = SETUP.model_copy(update={"unsmoothable": "its norms have no weights to fold scales into"})
    found = [one for one in judge_one(GAP, make_evidence(activations=setup)).findings if "smooth" in one.label]
    assert [one.label for one in found] == ["w8a8 smoothquant", "w16a4 smoothquant"]
    for one in found:
        assert one.status is Status.SKIPPED
        assert one.observed is None
        assert one.because == "SmoothQuant does not apply: its norms have no weights to fold scales into"


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
