from __future__ import annotations

import math

import pytest
from support.evidence import BASELINE_PERPLEXITY, HEALTHY, SETUP, make_evidence
from support.verdicts import judge_one, judge_schemes, make_activation_policy

from sw_audit.checks.holdout_closes_gap import HoldoutClosesGapLimits
from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Status

QUALITY, GAP = "activation-holdout-quality", "holdout-closes-gap"


def share_of(naive: float, after: float) -> float:
    """Work the share out from perplexity ratios: both are of the same baseline, and nats are their logarithms."""
    return (math.log(naive) - math.log(after)) / math.log(naive)


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
    ruined = judge_schemes(GAP, w8a8_smoothquant=None, w16a4_smoothquant=900.0)
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
    verdict = judge_schemes(GAP, policy, w8a8_hold_out=held)
    assert verdict.status is status
    assert (verdict.remedy is None) is (status is Status.PASS)


def test_where_naive_rounding_does_no_certain_harm_there_is_no_gap_to_close() -> None:
    verdict = judge_schemes(GAP, w8a8_naive=1.004, w16a4_naive=1.008)
    assert verdict.status is Status.SKIPPED
    assert "no gap to close" in verdict.because
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("w8a8 naive", Status.SKIPPED),
        ("w16a4 naive", Status.SKIPPED),
    ]
    one = judge_schemes(GAP, w8a8_naive=1.004)
    assert one.status is Status.PASS
    assert one.because.startswith("w16a4 hold-out")


def test_how_much_harm_makes_a_gap_is_a_limit() -> None:
    limits = CheckLimits({"holdout-closes-gap": HoldoutClosesGapLimits(minimum_harm=1.5)})
    verdict = judge_one(GAP, make_evidence(), Policy(checks=limits))
    assert verdict.because.startswith("w16a4 hold-out")
    assert [one.label for one in verdict.findings if one.limit] == ["w16a4 hold-out"]


def test_a_naive_arm_that_is_not_finite_is_closed_by_one_that_is() -> None:
    policy = make_activation_policy(schemes=("w8a8",))
    verdict = judge_schemes(GAP, policy, w8a8_naive=None)
    assert (verdict.status, verdict.observed) == (Status.PASS, 1.0)
    both = judge_schemes(GAP, policy, w8a8_naive=None, w8a8_hold_out=None)
    assert (both.status, both.observed) == (Status.FAIL, None)


def test_a_baseline_that_is_not_finite_leaves_the_gap_open() -> None:
    evidence = make_evidence(ratios={**HEALTHY, "baseline": None})
    verdict = judge_one(GAP, evidence)
    assert verdict.status is Status.INCONCLUSIVE
    assert judge_one(QUALITY, evidence).status is Status.FAIL


def test_smoothquant_that_does_not_apply_says_so_with_the_reason() -> None:
    setup = SETUP.model_copy(update={"unsmoothable": "its norms have no weights to fold scales into"})
    found = [one for one in judge_one(GAP, make_evidence(activations=setup)).findings if "smooth" in one.label]
    assert [one.label for one in found] == ["w8a8 smoothquant", "w16a4 smoothquant"]
    for one in found:
        assert one.status is Status.SKIPPED
        assert one.observed is None
        assert one.because == "SmoothQuant does not apply: its norms have no weights to fold scales into"
