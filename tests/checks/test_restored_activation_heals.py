from __future__ import annotations

import math

import pytest
from support.evidence import make_evidence
from support.verdicts import judge_one

from sw_audit.record.arm import PRUNED, RESTORED
from sw_audit.record.verdict import Status


def test_the_healed_share_is_of_the_lost_nats() -> None:
    verdict = judge_one("restored-activation-heals", make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx((math.log(213.6) - math.log(9.4)) / math.log(213.6))


def test_the_paper_s_figures_give_a_share_of_a_tenth_between_two_destroyed_models() -> None:
    ratios = {PRUNED.name: 1211.11 / 5.67, RESTORED.name: 720.57 / 5.67}
    verdict = judge_one("restored-activation-heals", make_evidence(ratios=ratios))
    assert verdict.observed == pytest.approx(0.0968, abs=1e-3)
    assert verdict.status is Status.INCONCLUSIVE
    assert "both arms are destroyed" in verdict.because
    assert verdict.remedy is not None


def test_restoring_that_heals_nothing_fails() -> None:
    verdict = judge_one(
        "restored-activation-heals", make_evidence(ratios={PRUNED.name: 200.0, RESTORED.name: 200.0})
    )
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert "minimum_share" in verdict.remedy


@pytest.mark.parametrize("ratio", [1.0, 0.9, 1.001])
def test_without_damage_there_is_nothing_to_heal(ratio: float) -> None:
    verdict = judge_one(
        "restored-activation-heals", make_evidence(ratios={PRUNED.name: ratio, RESTORED.name: 0.9})
    )
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is None
    assert verdict.remedy is not None
    assert "prune-collapses" in verdict.remedy


@pytest.mark.parametrize(
    ("pruned", "restored", "status"),
    [(None, 9.0, Status.INCONCLUSIVE), (200.0, None, Status.FAIL), (None, None, Status.INCONCLUSIVE)],
)
def test_healing_of_what_is_not_finite(pruned: float | None, restored: float | None, status: Status) -> None:
    evidence = make_evidence(ratios={PRUNED.name: pruned, RESTORED.name: restored})
    assert judge_one("restored-activation-heals", evidence).status is status
