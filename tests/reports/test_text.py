from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sw_audit_reports.text import (
    MINUS,
    NOTHING,
    TIMES,
    count,
    format_beside,
    format_bytes,
    format_change,
    format_exact,
    format_interval,
    format_number,
    format_percent,
    format_seconds,
    join_words,
    spell,
)

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


def read_number(text: str) -> float:
    """Read a number back from the text that a reader sees."""
    mantissa, raised, power = text.replace(",", "").replace(MINUS, "-").partition(f" {TIMES} 10")
    plain = power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
    return float(f"{mantissa}e{plain}" if raised else mantissa)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (-1.92684, f"{MINUS}1.927"),
        (1249.13, "1,249"),
        (999.96, "1,000"),
        (0.94573, "0.9457"),
        (1.72, "1.72"),
        (0.00012345, "0.0001234"),
        (1234567, "1,234,567"),
        (1.25e9, f"1.25 {TIMES} 10⁹"),
        (3.2e-7, f"3.2 {TIMES} 10⁻⁷"),
    ],
)
def test_a_number_is_written_with_four_significant_digits_at_most(value: float, text: str) -> None:
    assert format_number(value) == text


@given(finite)
def test_a_number_reads_back_within_its_last_digit(value: float) -> None:
    assert math.isclose(read_number(format_number(value)), value, rel_tol=5.1e-4)


@given(finite)
@example(0.1 + 0.2)
def test_a_limit_keeps_every_digit_that_was_given(value: float) -> None:
    assert math.isclose(read_number(format_exact(value)), value, rel_tol=1e-11)


@given(st.floats(min_value=0.5, max_value=2), st.floats(min_value=-1e-9, max_value=1e-9))
@example(1.2, 4e-10)
def test_rounding_never_makes_a_figure_look_like_its_limit(limit: float, off: float) -> None:
    figure = limit + off
    assert (format_beside(figure, limit) == format_exact(limit)) == (figure == limit)


def test_a_figure_a_hair_below_its_limit_shows_the_hair() -> None:
    assert format_beside(1.19999, 1.2) == "1.19999"


def test_an_interval_is_written_in_brackets_and_an_end_that_is_missing_is_said() -> None:
    assert format_interval(1100.2, 1400.9) == "[1,100, 1,401]"
    assert format_interval(2.5, None) == "[2.5, not finite]"
    assert format_interval(None, None) == ""


def test_sizes_shares_times_and_counts_are_words() -> None:
    assert format_bytes(999) == "999 bytes"
    assert format_bytes(4_201_880) == "4.2 MB"
    assert format_percent(0.9731) == "97.3 %"
    assert format_percent(0) == "0 %"
    assert format_seconds(31.24) == "31 s"
    assert format_seconds(600) == "10 min"
    assert count(1, "model") == "1 model"
    assert count(1200, "model") == "1,200 models"
    assert (spell(0), spell(3), spell(12)) == ("No", "Three", "12")
    assert join_words(["a"]) == "a"
    assert join_words(["a", "b", "c"]) == "a, b and c"


def test_the_change_of_a_weight_reads_alike_for_both_signs() -> None:
    pairs = {(0.5, 2.0): f"{MINUS}75 %", (-0.5, -2.0): f"{MINUS}75 %", (2.5, 2.0): "+25 %"}
    pairs |= {(-2.0, 2.0): f"{MINUS}200 %", (None, 2.0): NOTHING, (1.0, 0.0): NOTHING}
    assert {pair: format_change(*pair) for pair in pairs} == pairs
