from __future__ import annotations

import math

import pytest
from support.descent import judge_descent, make_descent_evidence, make_ridden
from support.evidence import CHANNEL

from sw_audit.record.verdict import Status

ACTIVATION = "super-activation-retained"


@pytest.mark.parametrize(
    ("factors", "status", "observed"),
    [
        ([1.0, 1.02, 0.99], Status.PASS, 1.02),
        ([1.0, 0.6, 1.0], Status.PASS, 0.6),
        ([1.0, 0.5999, 1.0], Status.FAIL, 0.5999),
        ([1.0, 1.671, 1.0], Status.FAIL, 1.671),
        ([1.0, 0.0, 1.0], Status.FAIL, 0.0),
        ([-1.0, -1.0, -1.0], Status.FAIL, -1.0),
    ],
)
def test_the_layer_whose_ratio_is_furthest_from_one_decides(
    factors: list[float], status: Status, observed: float
) -> None:
    verdict = judge_descent(ACTIVATION, make_descent_evidence(super_activations=(make_ridden(factors),)))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(observed)
    assert verdict.because.startswith(f"channel {CHANNEL}, token 0, ")


def test_an_activation_that_is_not_finite_fails_and_names_the_layer() -> None:
    verdict = judge_descent(ACTIVATION, make_descent_evidence(super_activations=(make_ridden([1.0, None, 1.0]),)))
    assert verdict.status is Status.FAIL
    assert "after layer 2 it is not finite" in verdict.because
    assert verdict.observed is None


def test_a_louder_channel_and_the_attention_are_told() -> None:
    ridden = make_ridden([1.0, 1.0, 1.0], loudest=(True, False, True), sink_parent=0.9, sink=0.85)
    verdict = judge_descent(ACTIVATION, make_descent_evidence(super_activations=(ridden,)))
    assert verdict.status is Status.PASS
    loudest, sink = verdict.findings[2:]
    assert loudest.observed == 2
    assert "another channel is louder after layer 2" in loudest.because
    assert sink.observed == 0.85
    assert all(math.isfinite(one.observed or 0.0) for one in verdict.findings)
