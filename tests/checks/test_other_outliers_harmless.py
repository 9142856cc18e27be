from __future__ import annotations

import pytest
from support.evidence import make_address, make_evidence, make_measurement, make_none_evidence
from support.verdicts import judge_one

from sw_audit.checks.arms import prune
from sw_audit.checks.other_outliers_harmless import NOT_FEEDING
from sw_audit.record.arm import OTHER_OUTLIERS
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status


def make_split(whole: float, rest: float) -> ModelResult:
    """Return evidence with ten largest weights zeroed, and with the seven of them that feed nothing."""
    evidence = make_evidence(omit=(OTHER_OUTLIERS,))
    arms = (
        prune(OTHER_OUTLIERS, [make_address(1, column) for column in range(10)]),
        prune(NOT_FEEDING, [make_address(1, column) for column in range(7)]),
    )
    measured = [make_measurement(arm, ratio, seed=3) for arm, ratio in zip(arms, (whole, rest), strict=True)]
    return evidence.model_copy(update={"measurements": (*evidence.measurements, *measured)})


def test_other_outliers_are_judged_without_a_super_weight_and_their_number_is_told() -> None:
    verdict = judge_one("other-outliers-harmless", make_none_evidence("specimen"))
    assert verdict.status is Status.PASS
    assert "2 other large weights" in verdict.because
    assert verdict.coordinates == ()


def test_where_those_that_feed_a_super_activation_do_the_damage_it_is_a_finding() -> None:
    verdict = judge_one("other-outliers-harmless", make_split(5.8, 1.01))
    assert (verdict.status, verdict.observed) == (Status.FAIL, pytest.approx(5.8))
    assert "3 of them feed a super activation" in verdict.because
    assert "with the other 7 zeroed" in verdict.because
    assert [(finding.status, finding.observed) for finding in verdict.findings] == [
        (Status.FAIL, pytest.approx(5.8)),
        (Status.PASS, pytest.approx(1.01)),
    ]
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("This is a finding and no defect: the 3 that feed")


def test_where_the_others_do_damage_too_a_super_weight_may_have_been_missed() -> None:
    verdict = judge_one("other-outliers-harmless", make_split(5.8, 3.0))
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert "may be a super weight that was not located" in verdict.remedy
