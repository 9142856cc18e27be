from __future__ import annotations

import time

import pytest

from sw_audit.progress import Standing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still: its only number is what it shows."""
    hands = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: hands[0])
    return hands


def test_the_time_left_follows_from_what_the_steps_of_the_stage_took(clock: list[float]) -> None:
    standing = Standing()
    assert standing.move("opening", 0, 1)
    clock[0] += 50
    assert (standing.left, standing.tell_left()) == (None, "time left unknown")
    # 50 seconds of opening say nothing of measuring, nor does the step that was done when it was first heard of.
    assert standing.move("measuring", 1, 7)
    assert standing.left is None
    clock[0] += 20
    assert not standing.move("measuring", 3, 7)
    assert standing.left == 40  # 10 seconds a step, 4 steps
    clock[0] += 20
    assert standing.left == 80  # no step since: 20 seconds a step
    assert standing.tell_left() == "about 1 min 20 s left"


@pytest.mark.parametrize(("done", "total"), [(1, 7), (3, 99)], ids=["fewer done", "more to do"])
def test_a_stage_that_begins_again_is_estimated_anew(clock: list[float], done: int, total: int) -> None:
    standing = Standing()
    standing.move("measuring", 0, 7)
    clock[0] += 1000
    standing.move("measuring", 2, 7)
    assert standing.left == 2500
    assert not standing.move("measuring", done, total)
    assert standing.left is None
