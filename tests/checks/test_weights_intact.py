from __future__ import annotations

from support.evidence import make_evidence, make_policy

from sw_audit.checks.context import StaticContext
from sw_audit.checks.weights_intact import weights_intact
from sw_audit.record.checkpoint import Flaw, WeightsReport
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
    return weights_intact.rule(StaticContext(weights_intact, evidence, make_policy()))


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
