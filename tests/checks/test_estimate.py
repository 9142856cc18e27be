from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.checks.estimate import (
    Estimate,
    EstimateStatus,
    hold_above,
    hold_at_least,
    hold_at_most,
    make_finding,
    write_interval,
    write_number,
)
from sw_audit.record.verdict import Status

Hold = Callable[[Estimate, float], Status]
numbers = st.floats(-1e6, 1e6)


def figure_between(low: float, high: float) -> Estimate:
    return Estimate(EstimateStatus.MEASURED, "", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("hold", "low", "high", "status"),
    [
        (hold_at_least, 10.0, 12.0, Status.PASS),
        (hold_at_least, 9.9999, 12.0, Status.INCONCLUSIVE),
        (hold_at_least, 8.0, 10.0, Status.INCONCLUSIVE),
        (hold_at_least, 8.0, 9.9999, Status.FAIL),
        (hold_at_most, 8.0, 10.0, Status.PASS),
        (hold_at_most, 8.0, 10.0001, Status.INCONCLUSIVE),
        (hold_at_most, 10.0, 12.0, Status.INCONCLUSIVE),
        (hold_at_most, 10.0001, 12.0, Status.FAIL),
        (hold_above, 10.0, 12.0, Status.INCONCLUSIVE),
        (hold_above, 10.0001, 12.0, Status.PASS),
        (hold_above, 10.0, 10.0, Status.FAIL),
    ],
)
def test_the_unfavourable_end_decides(hold: Hold, low: float, high: float, status: Status) -> None:
    assert hold(figure_between(low, high), 10.0) is status


def test_nothing_is_rounded_before_it_is_compared() -> None:
    just_below = math.nextafter(0.95, 0)
    assert hold_at_least(figure_between(just_below, 1.0), 0.95) is Status.INCONCLUSIVE
    assert write_number(just_below) == "0.95"


@given(low=numbers, width=st.floats(0, 1e3), limit=numbers)
def test_at_least_and_at_most_mirror_each_other(low: float, width: float, limit: float) -> None:
    figure, mirror = figure_between(low, low + width), figure_between(-low - width, -low)
    assert hold_at_least(figure, limit) is hold_at_most(mirror, -limit)


@given(low=numbers, width=st.floats(0, 1e3), limit=numbers, more=st.floats(0, 1e3))
def test_a_higher_limit_is_never_easier_to_reach(low: float, width: float, limit: float, more: float) -> None:
    order = [Status.PASS, Status.INCONCLUSIVE, Status.FAIL]
    figure = figure_between(low, low + width)
    assert order.index(hold_at_least(figure, limit)) <= order.index(hold_at_least(figure, limit + more))


@pytest.mark.parametrize("hold", [hold_at_least, hold_at_most, hold_above])
@pytest.mark.parametrize("limit", [-math.inf, 0.0, math.inf])
def test_what_is_not_finite_is_never_compared(hold: Hold, limit: float) -> None:
    assert hold(Estimate(EstimateStatus.NOT_FINITE, ""), limit) is Status.FAIL
    assert hold(Estimate(EstimateStatus.NO_REFERENCE, ""), limit) is Status.FAIL
    assert hold(Estimate(EstimateStatus.MISSING, ""), limit) is Status.INCONCLUSIVE
    assert hold(Estimate(EstimateStatus.TOO_FEW, "", 5.0), limit) is Status.INCONCLUSIVE


@pytest.mark.parametrize("hold", [hold_at_least, hold_at_most, hold_above])
def test_an_interval_whose_end_is_no_number_decides_nothing(hold: Hold) -> None:
    assert hold(Estimate(EstimateStatus.MEASURED, "", 5.0, math.nan, 6.0), 1.0) is Status.INCONCLUSIVE
    assert hold(Estimate(EstimateStatus.MEASURED, "", 5.0, None, None), 1.0) is Status.INCONCLUSIVE


def test_an_infinite_end_is_written_as_missing() -> None:
    figure = Estimate(EstimateStatus.MEASURED, "words", 5.0, 2.0, math.inf)
    assert hold_at_least(figure, 1.0) is Status.PASS
    finding = make_finding("label", figure, Status.PASS, 1.0)
    assert (finding.observed, finding.low, finding.high) == (5.0, 2.0, None)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (None, "not finite"),
        (math.inf, "not finite"),
        (math.nan, "not finite"),
        (0.0, "0"),
        (1.00049, "1"),
        (1.0723, "1.072"),
        (213.617, "213.6"),
        (1211.11, "1,211"),
        (9.07e7, "90,700,000"),
        (1.4e12, "1.4e+12"),
        (-0.5, "-0.5"),
        (2.5e-7, "2.5e-07"),
    ],
)
def test_numbers_are_written_for_reading(number: float | None, written: str) -> None:
    assert write_number(number) == written


def test_an_interval_is_written_with_its_confidence() -> None:
    assert write_interval(figure_between(1.0, 3.0), 0.95) == "2 (95 % interval 1 to 3)"
    assert write_interval(Estimate(EstimateStatus.TOO_FEW, "", 2.0), 0.95) == "2"
