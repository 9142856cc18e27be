from __future__ import annotations

import pytest

from sw_audit.duration import parse_duration, write_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90), (0.5, 0.5), (1e-6, 1e-6),
        ("90", 90), ("90s", 90), ("1.5s", 1.5), ("5min", 300), ("5 min", 300), ("2h", 7200),
        ("1h30min", 5400), (" 1 h 30 min ", 5400), ("1h5s", 3605), ("1min30", 90),
    ],
)  # fmt: skip
def test_a_length_of_time_is_read_in_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "soon", "min", "5m", "-5min", "1min1h", "0", 0, -1, True, None, [90], "nan", float("inf")]
)
def test_anything_else_is_told_with_the_forms(written: object) -> None:
    with pytest.raises(ValueError, match="is no length of time such as 90, 90s, 5min or 1h30min") as caught:
        parse_duration(written)
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (45.4, "45 s"), (90, "1 min 30 s"), (300, "5 min"), (3600, "1 h"), (5405, "1 h 30 min")],
)
def test_it_is_written_with_its_units(seconds: float, words: str) -> None:
    assert write_duration(seconds) == words
