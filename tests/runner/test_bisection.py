"""Bisection: the turn is found in few steps, wherever it is, and undecided places make a range."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sw_audit.record.verdict import Status
from sw_audit.runner.bisection import Turn, find_turn

WORDS = {"p": Status.PASS, "f": Status.FAIL, "i": Status.INCONCLUSIVE, "s": Status.SKIPPED}


def bisect(series: str) -> tuple[Turn, list[int]]:
    asked: list[int] = []

    def judge(place: int) -> Status:
        asked.append(place)
        return WORDS[series[place]]

    return find_turn(len(series), judge), asked


@given(st.integers(1, 60), st.integers(1, 60))
def test_one_turn_is_found_in_as_many_steps_as_halving_takes(passes: int, fails: int) -> None:
    turn, asked = bisect("p" * passes + "f" * fails)
    assert turn == Turn("turned", passes - 1, passes)
    assert list(turn.candidates) == [passes]
    assert asked[:2] == [0, passes + fails - 1]
    assert len(asked) == len(set(asked)) <= 2 + (passes + fails - 1).bit_length()


@given(st.text("pi", max_size=8), st.text("is", max_size=4), st.text("fi", max_size=8))
def test_the_range_reaches_from_the_last_that_passes_to_the_first_that_fails(
    before: str, between: str, after: str
) -> None:
    series = f"p{before}{between}{after}f"
    turn, _ = bisect(series)
    last, first = series.rindex("p"), series.index("f")
    assert (turn.outcome, turn.low, turn.high) == ("turned", last, first)
    assert list(turn.candidates) == list(range(last + 1, first + 1))


def test_beside_an_undecided_place_the_nearest_are_tried() -> None:
    turn, asked = bisect("pppiiifff")
    assert asked == [0, 8, 4, 3, 5, 2, 6]
    assert list(turn.candidates) == [3, 4, 5, 6]


def test_ends_that_are_alike_backwards_or_undecided_are_what_they_are() -> None:
    assert bisect("ppp") == (Turn("alike", 0, 2), [0, 2])
    assert bisect("fpf") == (Turn("alike", 0, 2), [0, 2])
    assert bisect("fp") == (Turn("backwards", 0, 1), [0, 1])
    assert bisect("iii") == (Turn("undecided", None, None), [0, 2, 1])
    assert bisect("isfi") == (Turn("undecided", 2, 2), [0, 3, 1, 2])
    assert bisect("ipfi") == (Turn("turned", 1, 2), [0, 3, 1, 2])
    assert list(bisect("ppp")[0].candidates) == []
