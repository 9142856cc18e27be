from __future__ import annotations

import pytest
from support.baselines import BEFORE, hold, judge
from support.evidence import SUPER_WEIGHT, make_location

from sw_audit.policy.policy import Policy
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status

WEIGHT, ACTIVATION, QUALITY = "super-weight-unmoved", "super-activation-unmoved", "quality-not-worse"


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, Status.PASS),
        (0.7500001, Status.PASS),
        (1.2499999, Status.PASS),
        (0.7499, Status.FAIL),
        (1.2501, Status.FAIL),
        (0.5, Status.FAIL),
        (0.0, Status.FAIL),
        (-1.0, Status.FAIL),
    ],
)
def test_a_super_weight_may_drift_by_a_quarter_and_no_further(factor: float, status: Status) -> None:
    verdict = judge(WEIGHT, hold(BEFORE * factor))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(abs(factor - 1))
    assert ("its sign has changed" in verdict.because) is (factor < 0)


def test_a_flipped_sign_fails_however_far_drift_is_allowed() -> None:
    policy = Policy.model_validate({"compare": "main", "checks": {"super-weight-unmoved": {"maximum_drift": 1.0}}})
    assert judge(WEIGHT, hold(0.0), policy).status is Status.FAIL
    assert judge(WEIGHT, hold(0.001 * BEFORE), policy).status is Status.PASS
    assert judge(WEIGHT, hold(-0.001 * BEFORE), policy).status is Status.FAIL


def test_a_super_weight_that_cannot_be_read_fails() -> None:
    verdict = judge(WEIGHT, hold(None))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None


def test_a_super_weight_that_kept_its_value_but_is_located_no_more_is_in_doubt_and_new_ones_are_named() -> None:
    elsewhere = SUPER_WEIGHT.model_copy(update={"row": 5, "column": 6, "value": 0.75})
    moved = make_location().model_copy(update={"super_weights": (elsewhere,)})
    verdict = judge(WEIGHT, hold(now=moved))
    assert verdict.status is Status.INCONCLUSIVE
    assert "no longer located" in verdict.because
    new = verdict.findings[-1]
    assert (new.label, new.status, new.observed) == ("layer 1 [5, 6]", Status.SKIPPED, 0.75)
    assert judge(WEIGHT, hold(0.5 * BEFORE, now=moved)).status is Status.FAIL


def test_a_baseline_without_super_weights_has_nothing_to_compare() -> None:
    none = hold(then=make_location(Outcome.NONE))
    assert judge(WEIGHT, none).status is Status.SKIPPED
    assert judge(ACTIVATION, none).status is Status.SKIPPED
    assert judge(QUALITY, none).status is Status.PASS
