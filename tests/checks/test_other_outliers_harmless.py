from __future__ import annotations

from support.evidence import make_none_evidence
from support.verdicts import judge_one

from sw_audit.record.verdict import Status


def test_other_outliers_are_judged_without_a_super_weight_and_their_number_is_told() -> None:
    verdict = judge_one("other-outliers-harmless", make_none_evidence("specimen"))
    assert verdict.status is Status.PASS
    assert "2 other large weights" in verdict.because
    assert verdict.coordinates == ()
