from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_failing_evidence
from support.verdicts import judge_one

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.placebo_harmless import PlaceboHarmlessLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Status


def test_all_draws_of_all_kinds_are_held_and_the_worst_decides() -> None:
    verdict = judge_one("placebo-harmless", make_failing_evidence())
    assert verdict.status is Status.FAIL
    assert len(verdict.findings) == 4 * 3
    assert [one.label for one in verdict.findings if one.status is Status.FAIL] == ["placebo/same-row/2"]
    worst = next(one for one in verdict.findings if one.label == "placebo/same-row/2")
    assert (verdict.observed, verdict.low, verdict.high) == (worst.observed, worst.low, worst.high)
    assert worst.observed == pytest.approx(1.38)


def test_a_missing_draw_leaves_the_placebos_inconclusive() -> None:
    policy = Policy(checks=CheckLimits({"placebo-harmless": PlaceboHarmlessLimits(draws=4)}))
    verdict = judge_one("placebo-harmless", make_evidence(), policy)
    assert verdict.status is Status.INCONCLUSIVE
    assert [one.status for one in verdict.findings].count(Status.INCONCLUSIVE) == 4
