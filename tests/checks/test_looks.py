"""Verdicts on what was measured in steps: the first that more text could not change."""

from __future__ import annotations

import math

import pytest
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from support.evidence import HEALTHY, make_evidence, make_policy

from sw_audit.checks.context import CheckContext
from sw_audit.checks.judging import judge_result
from sw_audit.checks.registry import find_checks
from sw_audit.record.arm import PRUNED
from sw_audit.record.measurement import Look
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

LOOKS = tuple(Look(windows=count, items=5 * count) for count in (4, 8, 16, 32))
CHECK = "prune-collapses"


def measure(ratio: float) -> ModelResult:
    return make_evidence(ratios={**HEALTHY, PRUNED.name: ratio}).model_copy(update={"looks": LOOKS})


def judge(result: ModelResult) -> Verdict:
    [verdict] = judge_result(result, make_policy(), [CHECK])
    return verdict


def test_a_clear_effect_is_judged_after_the_first_step_whatever_was_measured_after_it() -> None:
    verdict = judge(measure(213.6))
    assert verdict.status is Status.PASS
    assert verdict.evidence is not None
    assert (verdict.evidence.count, verdict.evidence.look, verdict.evidence.looks) == (4, 1, 4)
    assert verdict.evidence.needed is None


def test_an_effect_at_the_limit_is_looked_at_to_the_end_and_says_how_much_it_would_take() -> None:
    result = measure(10.02)
    verdict = judge(result)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.undecided
    assert verdict.evidence is not None
    assert (verdict.evidence.count, verdict.evidence.look) == (32, 4)
    low, observed = verdict.low, verdict.observed
    assert low is not None
    assert observed is not None
    # The half that crosses the limit narrows with the root of the windows, and Student's quantile does too.
    reach = (1 + (1 - 0.05 / 4)) / 2
    narrowing = stats.norm.ppf(reach) / stats.t(31).ppf(reach)
    ratio = math.log(observed / low) * narrowing / abs(math.log(observed / 10))
    assert verdict.evidence.needed == max(33, math.ceil(32 * ratio**2))
    more = f"About {verdict.evidence.needed - 32:,} more windows of 64 tokens would settle this"
    assert more in (verdict.remedy or "")


@pytest.mark.parametrize(("looks", "confidence"), [(1, 0.95), (4, 1 - 0.05 / 4), (6, 1 - 0.05 / 6)])
def test_the_error_is_shared_by_the_planned_looks(looks: int, confidence: float) -> None:
    context = CheckContext(find_checks()[CHECK], measure(20.0), make_policy(), looks=looks)
    assert context.confidence == pytest.approx(confidence)


def test_under_quick_a_law_is_skipped_and_said_not_to_be_measured() -> None:
    policy = make_policy().model_copy(update={"effort": "quick", "laws": "report"})
    [verdict] = judge_result(measure(213.6), policy, [CHECK])
    assert (verdict.status, verdict.observed) == (Status.SKIPPED, None)
    assert "Not measured" in verdict.because


def test_a_run_that_was_stopped_says_so_of_what_is_open_alone() -> None:
    stopped = {"stopped": "the run was stopped by the test"}
    assert "stopped" in judge(measure(10.02).model_copy(update=stopped)).because
    assert "stopped" not in judge(measure(213.6).model_copy(update=stopped)).because
