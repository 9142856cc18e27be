from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_none_evidence
from support.verdicts import judge_one, judge_schemes, make_activation_policy

from sw_audit.record.verdict import Status

QUALITY = "activation-holdout-quality"


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
    verdict = judge_schemes(QUALITY, w8a8_hold_out=ratio)
    assert verdict.status is status
    assert verdict.remedy


def test_the_worst_scheme_decides_by_how_far_it_is_above_its_own_limit() -> None:
    policy = make_activation_policy({"w8a8": 1.001, "w16a4": 3.0})
    verdict = judge_schemes(QUALITY, policy, w8a8_hold_out=1.3, w16a4_hold_out=3.5)
    assert verdict.because.startswith("w8a8: ")


def test_without_a_limit_on_any_scheme_quality_is_reported_and_skipped() -> None:
    verdict = judge_one(QUALITY, make_evidence(), make_activation_policy({}))
    assert verdict.status is Status.SKIPPED
    assert len(verdict.findings) == 2


def test_of_a_model_without_super_weights_quality_is_that_of_the_naive_arm() -> None:
    verdict = judge_one(QUALITY, make_none_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.003)
