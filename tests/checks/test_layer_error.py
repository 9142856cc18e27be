from __future__ import annotations

import math

import pytest
from support.descent import judge_descent, make_descent_evidence, make_layers

from sw_audit.checks.layer_error import measure_decibels
from sw_audit.record.verdict import Status

ERROR, RANGE = "layer-error", "range-fits-dtype"


def test_a_tenth_of_the_signal_is_minus_ten_decibels() -> None:
    assert measure_decibels(0.1, 1.0) == pytest.approx(-10)
    assert measure_decibels(7.0, 7.0) == 0
    assert measure_decibels(0.0, 1.0) is None
    assert measure_decibels(None, 1.0) is None
    assert measure_decibels(1.0, 0.0) is None


@pytest.mark.parametrize(("share", "status"), [(0.5, Status.PASS), (0.502, Status.FAIL), (4.0, Status.FAIL)])
def test_noise_that_comes_near_the_signal_fails(share: float, status: Status) -> None:
    # -3 dB is a share of 0.5012.
    layers = make_layers([1e-2] * 4, [1e-2, 1e-2, share, 1e-2])
    verdict = judge_descent(ERROR, make_descent_evidence(layers=layers))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(10 * math.log10(share))
    assert verdict.because.startswith("after layer 2: ")


def test_a_layer_that_stands_out_by_its_own_noise_is_named_and_not_those_after_it() -> None:
    layers = make_layers([1e-3, 1e-3, 0.2, 1e-3, 1e-3], [1e-3, 1e-3, 0.2, 0.25, 0.3])
    verdict = judge_descent(ERROR, make_descent_evidence(layers=layers))
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("layer 2 by itself: ")
    # 0.2 is -6.99 dB; the usual is a thousandth, -30 dB.
    assert verdict.observed == pytest.approx(10 * math.log10(0.2) + 30)
    assert [one.label for one in verdict.findings if one.status is Status.FAIL] == ["layer 2 by itself"]


def test_below_the_floor_nothing_stands_out() -> None:
    quiet = judge_descent(ERROR, make_descent_evidence(layers=make_layers([1e-9, 1e-9, 1e-5, 1e-9, 1e-9])))
    assert quiet.status is Status.PASS
    loud = judge_descent(ERROR, make_descent_evidence(layers=make_layers([1e-9, 1e-9, 0.02, 1e-9, 1e-9])))
    assert loud.status is Status.FAIL


def test_layers_that_were_left_as_they_are_count_as_quiet() -> None:
    alone = judge_descent(ERROR, make_descent_evidence(layers=make_layers([0.0, 0.0, 0.05, 0.0, 0.0])))
    assert alone.status is Status.FAIL
    assert "layer 2 by itself" in alone.because
    same = judge_descent(ERROR, make_descent_evidence(layers=make_layers([0.0] * 5)))
    assert same.status is Status.PASS
    assert "no noise" in same.because


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    layers = make_layers([1e-2, 1e-2, None, None], [1e-2, 1e-2, None, None])
    verdict = judge_descent(ERROR, make_descent_evidence(layers=layers))
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("layer 2: its output is not finite")
    assert verdict.observed is None


def test_layers_that_were_not_held_against_each_other_are_inconclusive() -> None:
    assert judge_descent(ERROR, make_descent_evidence(layers=())).status is Status.INCONCLUSIVE


def test_a_range_that_was_seen_nowhere_is_inconclusive() -> None:
    result = make_descent_evidence(layers=make_layers([1e-2] * 4, down_input=None, down_output=None))
    assert result.descent is not None
    [text] = result.descent.texts
    unseen = tuple(one.model_copy(update={"peaks": ()}) for one in text.measurements)
    descent = result.descent.model_copy(update={"texts": (text.model_copy(update={"measurements": unseen}),)})
    assert judge_descent(RANGE, result).status is Status.PASS
    verdict = judge_descent(RANGE, result.model_copy(update={"descent": descent}))
    assert verdict.status is Status.INCONCLUSIVE
