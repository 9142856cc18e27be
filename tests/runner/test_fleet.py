from __future__ import annotations

import time
from datetime import datetime

import pytest

from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.fleet import Fleet


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still, at half past two: its only number is what it shows."""
    noon = datetime(2026, 11, 30, 14, 30).timestamp()
    hands = [noon]
    monkeypatch.setattr(time, "monotonic", lambda: hands[0])
    monkeypatch.setattr(time, "time", lambda: hands[0])
    return hands


def conclude(status: Status) -> list[Verdict]:
    return [Verdict(check="a-check", model="m", status=status, because="of a reason")]


PASSED, FAILED, DOUBTED = map(conclude, (Status.PASS, Status.FAIL, Status.INCONCLUSIVE))


def test_the_end_is_told_from_the_bytes_that_are_done(clock: list[float]) -> None:
    fleet = Fleet({"small": 1_000, "large": 3_000, "largest": 8_000})
    assert fleet.tell() == "0 of 3 models done, 3 left"
    fleet.started("small")
    clock[0] += 60
    fleet.finished("small", PASSED)
    assert fleet.seconds_left == 60 * 11
    fleet.started("large")
    clock[0] += 60
    assert fleet.tell() == "1 of 3 models done, 2 left, ends about 14:42"
    clock[0] += 60
    fleet.finished("large", FAILED)
    assert fleet.seconds_left == 180 / 4_000 * 8_000
    assert fleet.tell() == "2 of 3 models done, 1 failing, 1 left, ends about 14:39"
    clock[0] += 1_000
    assert fleet.seconds_left == 0
    fleet.finished("largest", PASSED)
    assert fleet.tell() == "3 of 3 models done, 1 failing"


def test_models_end_in_any_order_and_none_twice(clock: list[float]) -> None:
    shown: list[str] = []
    fleet = Fleet(dict.fromkeys("abcd"), show=lambda: shown.append(fleet.tell()))
    for model in "abcd":
        fleet.started(model)
    clock[0] += 20
    fleet.finished("c", DOUBTED)
    fleet.started("a")
    clock[0] += 20
    fleet.finished("a", None)
    fleet.finished("a", PASSED)
    assert fleet.seconds_left == 40
    assert shown == [
        "1 of 4 models done, 3 left, ends about 14:31",
        "2 of 4 models done, 1 failing, 2 left, ends about 14:31",
    ]


def test_models_that_were_in_the_cache_tell_nothing_of_how_long_others_take(clock: list[float]) -> None:
    fleet = Fleet(dict.fromkeys("abcd", 5))
    for model in "ab":
        fleet.started(model)
        clock[0] += 1
        fleet.finished(model, PASSED, recalled=True)
    assert fleet.tell() == "2 of 4 models done, 2 left"
    fleet.started("c")
    clock[0] += 100
    fleet.finished("c", PASSED)
    assert fleet.seconds_left == 100


def test_a_model_of_unknown_size_counts_as_the_mean_of_the_others(clock: list[float]) -> None:
    fleet = Fleet({"a": 100, "b": 300, "c": None})
    fleet.started("a")
    clock[0] += 10
    fleet.finished("a", PASSED)
    assert fleet.seconds_left == 10 / 100 * (300 + 200)


def test_an_end_on_another_day_has_a_date(clock: list[float]) -> None:
    fleet = Fleet(dict.fromkeys("ab"))
    clock[0] += 6 * 3_600
    fleet.finished("a", PASSED)
    assert fleet.tell().endswith("1 left, ends about 02:30 on 2026-12-01")


def test_what_is_waived_and_what_is_a_law_fails_no_model() -> None:
    [verdict] = FAILED
    fleet = Fleet({"a": None})
    fleet.finished("a", [verdict.model_copy(update={"level": "law"})])
    assert fleet.failing == 0
