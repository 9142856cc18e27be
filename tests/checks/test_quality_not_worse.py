from __future__ import annotations

import pytest
from support.baselines import hold, judge
from support.evidence import make_protocol

from sw_audit.record.verdict import Status

QUALITY = "quality-not-worse"


@pytest.mark.parametrize(
    ("before", "status"),
    [(6.25, Status.PASS), (5.9, Status.PASS), (5.0, Status.FAIL), (6.25 / 1.1, Status.INCONCLUSIVE)],
)
def test_quality_is_judged_on_the_interval_of_the_ratio(before: float, status: Status) -> None:
    verdict = judge(QUALITY, hold(perplexity=before))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(6.25 / before)
    assert verdict.protocol == make_protocol().signature


def test_a_baseline_that_had_collapsed_is_no_excuse() -> None:
    assert judge(QUALITY, hold(perplexity=None)).status is Status.FAIL


def test_under_another_protocol_quality_is_in_doubt_and_the_reason_names_what_differs() -> None:
    other = make_protocol(seed=3).model_copy(update={"window": 128})
    verdict = judge(QUALITY, hold(protocol=other))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is None
    assert "window 128 then, 64 now; seed 3 then, 0 now" in verdict.because
