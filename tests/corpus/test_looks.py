from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sw_audit.corpus.looks import FIRST_ITEMS, FIRST_TOKENS, plan_looks
from sw_audit.record.measurement import Look


def test_steps_begin_with_256_tokens_and_double_to_the_end_of_the_text() -> None:
    looks = plan_looks(windows=97, window=64, items=0, minimum=4)
    assert [look.windows for look in looks] == [4, 8, 16, 32, 64, 97]
    assert {look.items for look in looks} == {0}


def test_a_step_that_would_leave_little_goes_to_the_end() -> None:
    assert [look.windows for look in plan_looks(18, 64, 0, minimum=4)] == [4, 8, 18]
    assert [look.windows for look in plan_looks(24, 64, 0, minimum=4)] == [4, 8, 16, 24]


def test_longer_windows_begin_with_as_many_as_give_an_interval() -> None:
    assert [look.windows for look in plan_looks(24, 256, 0, minimum=4)] == [4, 8, 16, 24]
    assert [look.windows for look in plan_looks(100, 16, 0, minimum=4)] == [16, 32, 64, 100]


def test_items_go_along_and_are_all_there_in_the_last_step() -> None:
    looks = plan_looks(windows=8, window=64, items=100, minimum=4)
    assert looks == (
        Look(windows=4, items=32),
        Look(windows=8, items=64),
        Look(windows=8, items=100),
    )


def test_a_short_text_is_one_step() -> None:
    assert plan_looks(3, 64, 5, minimum=4) == (Look(windows=3, items=5),)


@given(st.integers(1, 5000), st.integers(2, 4096), st.integers(0, 2000), st.integers(2, 16))
def test_steps_never_go_back_and_end_at_the_end(windows: int, window: int, items: int, minimum: int) -> None:
    looks = plan_looks(windows, window, items, minimum)
    assert looks[-1] == Look(windows=windows, items=items)
    assert looks[0].windows == min(windows, max(minimum, -(-FIRST_TOKENS // window)))
    assert looks[0].items == min(items, FIRST_ITEMS)
    for before, after in pairwise(looks):
        assert before != after
        assert before.windows <= after.windows < 3 * before.windows
        assert before.items <= after.items <= 3 * before.items
