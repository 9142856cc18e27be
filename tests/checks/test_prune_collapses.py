from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import HEALTHY, PARAMETER, make_evidence, make_failing_evidence, make_protocol
from support.verdicts import judge_one

from sw_audit.record.arm import BASELINE, FLIPPED, OTHER_OUTLIERS, PRUNED
from sw_audit.record.verdict import Status

DOSES = {"dose/0.1": 118.0, "dose/0.25": 31.0, "dose/0.5": 1.31, "dose/0.75": 1.02}


def test_the_collapse_reports_every_part_and_dose_with_its_interval_and_is_not_decided_by_them() -> None:
    verdict = judge_one("prune-collapses", make_evidence(ratios={**HEALTHY, FLIPPED.name: 1.0, "dose/3": 9000.0}))
    reported = {one.label: one for one in verdict.findings}
    assert {FLIPPED.name, *DOSES, "dose/1.5", "dose/2", "dose/3"} == set(reported)
    assert {one.status for one in reported.values()} == {Status.SKIPPED}
    assert reported["dose/0.25"].observed == pytest.approx(31.0)
    assert reported["dose/0.25"].low is not None
    assert verdict.status is Status.PASS


def test_a_collapse_passes_with_its_ratio_interval_and_coordinate() -> None:
    verdict = judge_one("prune-collapses", make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(213.6)
    assert verdict.low is not None
    assert verdict.high is not None
    assert 10 < verdict.low < 213.6 < verdict.high
    assert verdict.limit == 10
    assert verdict.quantity == "perplexity ratio"
    assert verdict.coordinates == (f"{PARAMETER}[37, 211]",)
    assert verdict.protocol == make_protocol().signature
    assert verdict.remedy is None
    assert "1,335" in verdict.because
    assert "95 % interval" in verdict.because


def test_no_collapse_fails_and_names_the_key_to_change() -> None:
    verdict = judge_one("prune-collapses", make_failing_evidence())
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert "[checks.prune-collapses] minimum_ratio" in verdict.remedy


def test_a_pruned_model_that_is_not_finite_has_collapsed() -> None:
    verdict = judge_one("prune-collapses", make_evidence(ratios={PRUNED.name: None}))
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.low, verdict.high) == (None, None, None)
    assert "not finite" in verdict.because


def test_a_loss_too_large_for_a_perplexity_has_collapsed_too() -> None:
    evidence = make_evidence()
    measurements = []
    for found in evidence.measurements:
        loss = found.loss
        if found.arm.name == PRUNED.name:
            loss = loss.model_copy(update={"nats": tuple(800.0 * count for count in loss.tokens)})
        measurements.append(found.model_copy(update={"loss": loss}))
    evidence = evidence.model_copy(update={"measurements": tuple(measurements)})
    assert judge_one("prune-collapses", evidence).status is Status.PASS
    assert judge_one("restored-activation-heals", evidence).status is Status.INCONCLUSIVE


def test_a_model_that_is_not_finite_before_pruning_proves_nothing() -> None:
    evidence = make_evidence(ratios={**HEALTHY, BASELINE.name: None})
    for check in ("prune-collapses", "restored-activation-heals"):
        verdict = judge_one(check, evidence)
        assert verdict.status is Status.INCONCLUSIVE
        assert verdict.remedy
    for check in ("other-outliers-harmless", "placebo-harmless", "rtn-holdout-quality"):
        assert judge_one(check, evidence).status is Status.FAIL


def test_an_interval_across_the_limit_is_inconclusive() -> None:
    verdict = judge_one("other-outliers-harmless", make_evidence(ratios={OTHER_OUTLIERS.name: 1.2}))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1.2 < verdict.high


@given(ratio=st.floats(1.0, 1e9))
@settings(max_examples=8, deadline=None)
def test_a_stronger_collapse_is_never_a_worse_verdict(ratio: float) -> None:
    order = [Status.FAIL, Status.INCONCLUSIVE, Status.PASS]
    ranks = [
        order.index(judge_one("prune-collapses", make_evidence(ratios={PRUNED.name: one})).status)
        for one in (ratio, 2 * ratio)
    ]
    assert ranks == sorted(ranks)
