from __future__ import annotations

import math

import pytest
from support.evidence import make_measurement

from sw_audit.checks.comparison import rate_quality
from sw_audit.checks.statistics import Bootstrap, bound_mean_difference
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import BASELINE, Arm, Custom

BASE = make_measurement(BASELINE, 1.0, seed=0)
POLICY = Policy()


def test_the_model_itself_is_perfect() -> None:
    quality = rate_quality(BASE, BASE, POLICY)
    assert (quality.ratio, quality.low, quality.high) == (1.0, 1.0, 1.0)
    assert (quality.divergence, quality.top1) == (0.0, 1.0)


def test_a_ratio_has_the_interval_of_the_paired_bootstrap() -> None:
    found = make_measurement(Arm(purpose=Custom(label="x")), 1.25, seed=3)
    quality = rate_quality(found, BASE, POLICY)
    nats = [[one for one in arm.loss.nats if one is not None] for arm in (found, BASE)]
    logs = bound_mean_difference(nats[0], nats[1], found.loss.tokens, Bootstrap.of(POLICY))
    assert (quality.ratio, quality.low, quality.high) == tuple(math.exp(log) for log in logs)
    assert quality.ratio == pytest.approx(1.25, rel=0.05)
    assert quality.low is not None
    assert quality.high is not None
    assert quality.low < quality.ratio < quality.high
    assert found.loss.perplexity is not None
    assert BASE.loss.perplexity is not None
    assert quality.ratio == pytest.approx(found.loss.perplexity / BASE.loss.perplexity)


def test_with_too_few_windows_there_is_a_ratio_and_no_interval() -> None:
    base = make_measurement(BASELINE, 1.0, seed=0, windows=7)
    quality = rate_quality(make_measurement(Arm(purpose=Custom(label="x")), 2.0, windows=7), base, POLICY)
    assert quality.ratio is not None
    assert (quality.low, quality.high) == (None, None)


def test_what_is_not_finite_has_no_ratio_but_can_still_be_counted() -> None:
    quality = rate_quality(make_measurement(Arm(purpose=Custom(label="x")), None), BASE, POLICY)
    assert (quality.perplexity, quality.ratio, quality.low, quality.divergence) == (None, None, None, None)
    assert quality.accuracy is not None


def test_figures_of_different_protocols_are_never_compared() -> None:
    with pytest.raises(ValueError, match="not scored on the baseline's tokens"):
        rate_quality(make_measurement(Arm(purpose=Custom(label="x")), 1.1, windows=16), BASE, POLICY)
