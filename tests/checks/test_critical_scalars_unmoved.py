"""Whether a baseline's critical scalars are where they were, by figures worked out by hand."""

from __future__ import annotations

import pytest
from support.baselines import hold, judge
from support.critical import NORM, make_scalar, make_search

from sw_audit.checks.critical_scalars_unmoved import critical_scalars_unmoved
from sw_audit.policy.policy import Policy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.verdict import Status, Verdict

CHECK = critical_scalars_unmoved.id
SEARCH = make_search(*(make_scalar(NORM, place, ratio=22.3, value=2.0) for place in (17, 18)))


def judge_held(
    *factors: float | None, search: CriticalSearch | None = SEARCH, finite: bool = True, limit: float = 0.25
) -> Verdict:
    evidence = hold()
    scalars = tuple(
        RetainedScalar(
            address=ScalarAddress(parameter=NORM, index=(17 + place,)),
            parent=2.0,
            value=None if factor is None else 2.0 * factor,
            finite=finite,
        )
        for place, factor in enumerate(factors)
    )
    assert evidence.baseline is not None
    baseline = evidence.baseline.model_copy(update={"critical": search, "scalars": scalars})
    policy = Policy.model_validate({"compare": "main", "checks": {CHECK: {"maximum_drift": limit}}})
    return judge(CHECK, evidence.model_copy(update={"baseline": baseline}), policy)


@pytest.mark.parametrize(
    ("factor", "status"),
    [(1.0, Status.PASS), (0.7500001, Status.PASS), (1.2501, Status.FAIL), (0.5, Status.FAIL), (-1.0, Status.FAIL)],
)
def test_a_critical_scalar_may_drift_by_a_quarter_and_no_further(factor: float, status: Status) -> None:
    verdict = judge_held(1.0, factor)
    assert verdict.status is status
    assert verdict.observed == pytest.approx(abs(factor - 1))
    assert ("its sign has turned" in verdict.because) is (factor < 0)
    assert judge_held(1.0, 0.5, limit=0.6).status is Status.PASS


def test_the_one_that_moved_most_is_named_with_what_it_costs() -> None:
    verdict = judge_held(0.7, 0.4)
    assert verdict.because.startswith(
        "Against the baseline main: model.norm.weight[18] was 2 and is 0.8, -60 percent"
    )
    assert "zeroed alone it multiplies the baseline's perplexity by 22.3" in verdict.because
    assert [one.status for one in verdict.findings] == [Status.FAIL, Status.FAIL]


def test_what_is_not_finite_fails_and_what_cannot_be_read_is_in_doubt() -> None:
    assert judge_held(None, finite=False).status is Status.FAIL
    assert judge_held(None).status is Status.INCONCLUSIVE


def test_a_baseline_that_was_not_searched_or_has_none_has_nothing_to_compare() -> None:
    assert "was not searched" in judge_held(search=None).because
    assert judge_held().status is Status.INCONCLUSIVE
    none = judge_held(search=make_search())
    assert (none.status, "has no critical scalar" in none.because) == (Status.SKIPPED, True)
