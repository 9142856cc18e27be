from __future__ import annotations

import pytest
from support.evidence import HEALTHY, make_evidence, make_none_evidence
from support.verdicts import judge_one, judge_schemes, make_activation_policy

from sw_audit.record.verdict import Status

QUALITY = "activation-holdout-quality"


def test_quality_is_judged_where_there_is_a_limit_and_reported_elsewhere() -> None:
    verdict = judge_one(QUALITY, make_evidence())
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.limit) == (pytest.approx(1.014), 1.2)
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("w8a8", Status.PASS),
        ("w8a8 naive", Status.SKIPPED),
        ("w8a8 hold-out", Status.SKIPPED),
        ("w8a8 smoothquant", Status.SKIPPED),
    ]
    assert verdict.findings[1].observed == pytest.approx(1.06)


def test_a_model_of_a_billion_weights_may_lose_less_than_a_small_one() -> None:
    evidence = make_evidence(ratios={**HEALTHY, "w8a8 hold-out": 1.11})
    assert judge_one(QUALITY, evidence).status is Status.PASS
    large = judge_one(QUALITY, evidence.model_copy(update={"decoder_weights": 10**9}))
    assert (large.status, large.limit) == (Status.FAIL, 1.05)


@pytest.mark.parametrize(
    ("ratio", "status"), [(1.3, Status.FAIL), (1.2, Status.INCONCLUSIVE), (None, Status.FAIL)]
)
def test_quality_fails_above_the_limit_and_is_open_on_it(ratio: float | None, status: Status) -> None:
    verdict = judge_schemes(QUALITY, w8a8_hold_out=ratio)
    assert verdict.status is status
    assert verdict.remedy


def test_the_worst_scheme_decides_by_how_far_it_is_above_its_own_limit() -> None:
    policy = make_activation_policy({"w8a8": 1.001, "w16a4": 3.0}, schemes=("w8a8", "w16a4"))
    verdict = judge_schemes(QUALITY, policy, w8a8_hold_out=1.3, w16a4_hold_out=3.5)
    assert verdict.because.startswith("w8a8: ")


def test_without_a_limit_on_any_scheme_quality_is_reported_and_skipped() -> None:
    verdict = judge_one(QUALITY, make_evidence(), make_activation_policy({}))
    assert verdict.status is Status.SKIPPED
    assert [one.label for one in verdict.findings][:2] == ["w8a8", "w8a8 naive"]


def test_of_a_model_without_super_weights_quality_is_that_of_the_naive_arm() -> None:
    verdict = judge_one(QUALITY, make_none_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.003)
