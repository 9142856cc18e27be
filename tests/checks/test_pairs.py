from __future__ import annotations

from support.descent import judge_descent, make_descent_evidence
from support.evidence import make_location

from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status

WEIGHT, ACTIVATION = "super-weight-retained", "super-activation-retained"


def test_a_parent_without_super_weights_has_none_to_keep() -> None:
    none = make_descent_evidence(parent_location=make_location(Outcome.NONE))
    for check in (WEIGHT, ACTIVATION):
        verdict = judge_descent(check, none)
        assert verdict.status is Status.SKIPPED
        assert "outcome none" in verdict.because
