from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sw_audit_reports.scales import fit_log_axis

positive = st.floats(min_value=1e-12, max_value=1e304, allow_nan=False)


@given(st.lists(positive, min_size=1, max_size=5))
def test_an_axis_reaches_beyond_its_values_and_has_its_ticks_inside(values: list[float]) -> None:
    axis = fit_log_axis(values)
    assert 0 < axis.low < min(values) <= max(values) < axis.high < float("inf")
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert len(axis.ticks) <= 9


def test_ticks_are_powers_of_ten_over_many_decades() -> None:
    assert fit_log_axis([1.758, 2196]).ticks == (10, 100, 1000)


def test_ticks_step_by_one_two_five_over_a_few_decades() -> None:
    assert fit_log_axis([2.1, 180]).ticks == (2, 5, 10, 20, 50, 100, 200)


def test_ticks_are_evenly_spaced_where_values_are_close_together() -> None:
    assert fit_log_axis([1.0, 1.2]).ticks == (1, 1.05, 1.1, 1.15, 1.2)
