from __future__ import annotations

from support.evidence import make_evidence, make_policy

from sw_audit.checks.context import CheckContext
from sw_audit.checks.weights_intact import judge_broken_weights, weights_intact
from sw_audit.record.checkpoint import Flaw, WeightsReport
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status, Verdict

BROKEN = WeightsReport(
    files=2,
    tensors=30,
    scanned=30,
    flaws=(Flaw(kind="non-finite", where="a.weight", found="it holds 2 NaN"),),
    counts={"non-finite": 7},
    serious=7,
    remedy="take an earlier checkpoint",
)


def judge_files(report: WeightsReport | None) -> Verdict:
    evidence = make_evidence().model_copy(update={"weights": report})
    return weights_intact.rule(CheckContext(weights_intact, evidence, make_policy()))


def test_files_in_which_nothing_serious_was_found_pass() -> None:
    mild = Flaw(kind="zero-group", where="a.weight", found="3 runs are zero", serious=False)
    report = WeightsReport(files=2, tensors=30, scanned=29, flaws=(mild,), counts={"zero-group": 1})
    verdict = judge_files(report)
    assert (verdict.status, verdict.observed, verdict.limit, verdict.remedy) == (Status.PASS, 0, 0, None)
    assert verdict.because == (
        "2 files with 30 tensors were looked at, 29 value by value, and nothing serious was found; "
        "1 things are unusual."
    )
    [finding] = verdict.findings
    assert (finding.label, finding.status) == ("zero-group: a.weight", Status.SKIPPED)


def test_one_serious_flaw_fails_and_all_are_counted() -> None:
    verdict = judge_files(BROKEN)
    assert (verdict.status, verdict.observed, verdict.limit) == (Status.FAIL, 7, 0)
    assert verdict.because == "a.weight: it holds 2 NaN (and 6 more)."
    assert verdict.remedy == "Take an earlier checkpoint."


def test_files_that_nobody_looked_at_pass_nothing() -> None:
    assert judge_files(None).status is Status.INCONCLUSIVE


def test_a_failure_is_one_verdict_and_the_others_are_skipped() -> None:
    failure = ModelFailure(model="it", message="it holds 2 NaN", weights=BROKEN)
    intact, other = judge_broken_weights(failure, ["weights-intact", "kl-divergence"])
    assert (intact.status, intact.observed, intact.quantity) == (Status.FAIL, 7, "serious flaws")
    assert (other.status, other.check, other.model) == (Status.SKIPPED, "kl-divergence", "it")


def test_without_the_check_itself_the_others_are_no_skip_that_would_pass() -> None:
    failure = ModelFailure(model="it", message="it holds 2 NaN", weights=BROKEN)
    [verdict] = judge_broken_weights(failure, ["kl-divergence"])
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None


def test_a_model_that_failed_for_another_reason_has_no_verdicts() -> None:
    assert judge_broken_weights(ModelFailure(model="it", message="gone"), ["weights-intact"]) == ()
