from __future__ import annotations

import math

import pytest
from support.evidence import HEALTHY, SETUP, make_evidence
from support.verdicts import judge_one, judge_schemes, make_activation_policy

from sw_audit.record.verdict import Status

QUALITY, GAP = "activation-holdout-quality", "holdout-closes-gap"
BOTH = make_activation_policy(schemes=("w8a8", "w16a4"))


def share_of(naive: float, after: float) -> float:
    """Work the share out from perplexity ratios: both are of the same baseline, and nats are their logarithms."""
    return (math.log(naive) - math.log(after)) / math.log(naive)


def test_the_figure_is_what_the_hold_out_loses_beyond_smoothquant_in_nats() -> None:
    verdict = judge_one(GAP, make_evidence())
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(math.log(1.014) - math.log(1.011))
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < verdict.observed < verdict.high <= 0.02
    assert (verdict.limit, verdict.side) == (0.02, "at most")
    assert verdict.because.startswith("w8a8 hold-out beside smoothquant: perplexity 6.338 beside 6.319, 0.0029")


def test_of_two_alphas_the_better_one_counts_and_the_worst_scheme_decides() -> None:
    verdict = judge_one(GAP, make_evidence(policy=BOTH), BOTH)
    by_label = {one.label: one for one in verdict.findings}
    searched = by_label["w16a4 hold-out beside smoothquant searched"]
    assert searched.observed == pytest.approx(math.log(1.21) - math.log(1.35))
    assert verdict.because.startswith("w8a8")
    usual = judge_schemes(GAP, BOTH, w16a4_smoothquant=1.1)
    assert usual.status is Status.FAIL
    assert usual.observed == pytest.approx(math.log(1.21) - math.log(1.1))


def test_what_each_treatment_costs_and_saves_stands_beside_it_and_decides_nothing() -> None:
    verdict = judge_one(GAP, make_evidence())
    deciding, *reported = verdict.findings
    assert (deciding.status, deciding.limit) == (Status.PASS, 0.02)
    assert {one.label: one.observed for one in reported} == {
        "w8a8 naive": pytest.approx(1.06),
        "w8a8 hold-out": pytest.approx(1.014),
        "w8a8 smoothquant": pytest.approx(1.011),
        "w8a8 hold-out, share saved": pytest.approx(share_of(1.06, 1.014)),
        "w8a8 smoothquant, share saved": pytest.approx(share_of(1.06, 1.011)),
    }
    assert {one.status for one in reported} == {Status.SKIPPED}
    # Where naive rounding does no certain harm there is nothing to save.
    harmless = judge_schemes(GAP, w8a8_naive=1.004)
    assert harmless.status is Status.PASS
    assert not any("share" in one.label for one in harmless.findings)


@pytest.mark.parametrize(
    ("held", "status"),
    [(1.06, Status.FAIL), (1.0315, Status.INCONCLUSIVE), (1.014, Status.PASS), (None, Status.FAIL)],
)
def test_more_lost_than_the_margin_fails_and_what_straddles_it_is_open(held: float | None, status: Status) -> None:
    verdict = judge_schemes(GAP, w8a8_hold_out=held)
    assert verdict.status is status
    assert (verdict.remedy is None) is (status is Status.PASS)


def test_two_destroyed_models_decide_nothing() -> None:
    destroyed = {"w16a4_naive": 680.0, "w16a4_hold_out": 720.0, "w16a4_smoothquant": 300.0}
    verdict = judge_schemes(GAP, BOTH, **destroyed, w16a4_smoothquant_searched=150.0)
    assert verdict.status is Status.PASS
    left_out = next(one for one in verdict.findings if one.label == "w16a4 hold-out beside smoothquant")
    assert "both arms are destroyed" in left_out.because
    assert not any("w16a4" in one.label and "share" in one.label for one in verdict.findings)
    alone = make_activation_policy(schemes=("w16a4",))
    both = judge_schemes(GAP, alone, **destroyed, w16a4_smoothquant_searched=None)
    assert (both.status, both.observed) == (Status.INCONCLUSIVE, None)
    assert both.remedy


def test_a_smoothquant_that_is_not_finite_is_beaten_by_a_hold_out_that_is() -> None:
    beaten = judge_schemes(GAP, w8a8_smoothquant=None)
    assert (beaten.status, beaten.observed) == (Status.PASS, 0.0)


def test_a_baseline_that_is_not_finite_decides_nothing() -> None:
    evidence = make_evidence(ratios={**HEALTHY, "baseline": None})
    assert judge_one(GAP, evidence).status is Status.INCONCLUSIVE
    assert judge_one(QUALITY, evidence).status is Status.FAIL


@pytest.mark.parametrize(("held", "status"), [(1.014, Status.PASS), (1.12, Status.FAIL)])
def test_where_smoothquant_does_not_apply_the_share_saved_decides(held: float, status: Status) -> None:
    setup = SETUP.model_copy(update={"unsmoothable": "its norms have no weights to fold scales into"})
    bare = make_evidence(ratios={**HEALTHY, "w8a8 hold-out": held}, activations=setup, omit=("w8a8 smoothquant",))
    verdict = judge_one(GAP, bare)
    assert (verdict.status, verdict.limit, verdict.side) == (status, 0.05, "at least")
    assert verdict.observed == pytest.approx(share_of(1.06, held), abs=1e-9)
    assert verdict.quantity == "share of the loss saved"
    assert verdict.because.startswith("SmoothQuant does not apply: its norms have no weights to fold scales into;")
    harmless = make_evidence(ratios={**HEALTHY, "w8a8 naive": 1.004}, activations=setup)
    assert judge_one(GAP, harmless).status is Status.SKIPPED
