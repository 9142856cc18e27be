from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_protocol
from support.verdicts import judge_one

from sw_audit.record.arm import BASELINE, OTHER_OUTLIERS, PRUNED, RESTORED, Placebo
from sw_audit.record.verdict import Status

QUALITY = {
    "other-outliers-harmless": OTHER_OUTLIERS.name,
    "placebo-harmless": Placebo(control="random", draw=1).name,
}


@pytest.mark.parametrize("check", QUALITY)
def test_a_quality_check_fails_where_its_arm_is_not_finite(check: str) -> None:
    verdict = judge_one(check, make_evidence(ratios={QUALITY[check]: None}))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None
    assert "not finite" in verdict.because


@pytest.mark.parametrize(
    ("check", "arm"),
    [
        *QUALITY.items(),
        ("prune-collapses", PRUNED.name),
        ("restored-activation-heals", RESTORED.name),
        ("prune-collapses", BASELINE.name),
    ],
)
def test_an_arm_that_was_not_measured_is_inconclusive(check: str, arm: str) -> None:
    verdict = judge_one(check, make_evidence(omit=(arm,)))
    assert verdict.status is Status.INCONCLUSIVE
    assert f"{arm!r} was not measured" in verdict.because
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("Run the audit again")


def test_figures_of_another_protocol_are_never_compared() -> None:
    evidence = make_evidence()
    other = evidence.model_copy(update={"protocol": make_protocol(seed=9)})
    assert judge_one("prune-collapses", evidence).status is Status.PASS
    assert judge_one("prune-collapses", other).status is Status.INCONCLUSIVE


def test_arms_scored_on_different_tokens_are_never_compared() -> None:
    evidence, shorter = make_evidence(), make_evidence(windows=16)
    mixed = [
        shorter.measured(PRUNED.name) if one.arm.name == PRUNED.name else one for one in evidence.measurements
    ]
    signature = evidence.protocol.signature
    moved = tuple(one.model_copy(update={"protocol": signature}) for one in mixed if one is not None)
    verdict = judge_one("prune-collapses", evidence.model_copy(update={"measurements": moved}))
    assert verdict.status is Status.INCONCLUSIVE
    assert "not scored on the same tokens" in verdict.because


def test_too_few_windows_give_a_figure_but_no_interval_and_no_verdict() -> None:
    verdict = judge_one("prune-collapses", make_evidence(windows=3))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed == pytest.approx(213.6)
    assert verdict.low is None
    assert verdict.remedy is not None
    assert "`[corpus] windows`" in verdict.remedy
    assert judge_one("prune-collapses", make_evidence(windows=4)).status is Status.PASS
