from __future__ import annotations

import io
import sys
import time

import pytest

from sw_audit.cli import progress as shown
from sw_audit.cli.progress import show_models, show_progress
from sw_audit.record.verdict import Status, Verdict


class Terminal(io.StringIO):
    """A terminal as far as writing to one goes."""

    def __init__(self, *, real: bool) -> None:
        super().__init__()
        self.real = real

    def isatty(self) -> bool:
        return self.real


def replace_stderr(monkeypatch: pytest.MonkeyPatch, *, real: bool) -> Terminal:
    terminal = Terminal(real=real)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still: its only number is what it shows."""
    hands = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: hands[0])
    return hands


def test_on_a_terminal_a_bar_tells_stage_and_time_left_and_goes_away(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    terminal = replace_stderr(monkeypatch, real=True)
    with show_progress("llama-w4") as progress:
        progress("opening", 0, 1)
        progress("measuring", 0, 4)
        clock[0] += 20
        progress("measuring", 1, 4)
    frames = [frame.rstrip() for frame in terminal.getvalue().split("\r")]
    assert any("llama-w4: opening   0%|" in frame and frame.endswith(", time left unknown") for frame in frames)
    assert any("llama-w4: measuring  25%|" in frame and frame.endswith(", about 1 min left") for frame in frames)
    assert frames[-1] == ""
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize("real", [False, True], ids=["no terminal", "plain on a terminal"])
def test_elsewhere_a_line_tells_that_a_stage_begins(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], real: bool
) -> None:
    terminal = replace_stderr(monkeypatch, real=real)
    with show_progress("llama-w4", plain=real) as progress:
        progress("opening", 0, 1)
        clock[0] += 75
        progress("measuring", 1, 4)
        progress("measuring", 2, 4)
        progress("measuring", 1, 8)
    assert terminal.getvalue() == "[00:00] llama-w4: opening\n[01:15] llama-w4: measuring\n"


def test_a_line_comes_every_thirty_seconds_within_a_stage(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    terminal = replace_stderr(monkeypatch, real=False)
    lines = shown._Lines("")
    lines.tick()
    lines("measuring", 0, 5)
    for seconds, done in ((20, 1), (10, 2), (29, 2), (1, 3)):
        clock[0] += seconds
        lines("measuring", done, 5)
        lines.tick()
    assert terminal.getvalue().splitlines() == [
        "[00:00] measuring",
        "[00:30] measuring: 2 of 5, about 45 s left",
        "[01:00] measuring: 3 of 5, about 40 s left",
    ]


def test_a_line_comes_also_while_the_work_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = replace_stderr(monkeypatch, real=False)
    monkeypatch.setattr(shown, "_EVERY", 0.02)
    monkeypatch.setattr(shown, "_TICK", 0.01)
    with show_progress() as progress:
        progress("opening", 0, 1)
        deadline = time.monotonic() + 30
        while terminal.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert terminal.getvalue().splitlines()[1:3] == ["[00:00] opening: 0 of 1, time left unknown"] * 2


@pytest.mark.parametrize("real", [False, True])
def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    terminal = replace_stderr(monkeypatch, real=real)
    with show_progress("llama-w4", quiet=True) as progress:
        progress("opening", 0, 1)
    assert terminal.getvalue() == ""


PASSED = (Verdict(check="a-check", model="m", status=Status.PASS, because="of a reason"),)


@pytest.mark.parametrize("real", [False, True], ids=["no terminal", "plain on a terminal"])
def test_of_several_models_a_line_is_written_when_one_is_done(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], real: bool
) -> None:
    terminal = replace_stderr(monkeypatch, real=real)
    with show_models({"a": None, "b": None}, plain=real) as fleet:
        clock[0] += 75
        fleet.finished("b", None)
        fleet.finished("a", PASSED)
    assert [line.partition(", ends about")[0] for line in terminal.getvalue().splitlines()] == [
        "[01:15] 1 of 2 models done, 1 failing, 1 left",
        "[01:15] 2 of 2 models done, 1 failing",
    ]


def test_on_a_terminal_two_bars_tell_of_the_models_and_of_the_one_that_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = replace_stderr(monkeypatch, real=True)
    with show_models({"a": None, "b": None}) as fleet:
        with show_progress("a") as progress:
            progress("measuring", 1, 4)
        fleet.finished("a", PASSED)
    shown = terminal.getvalue()
    assert "a: measuring  25%|" in shown
    assert "1 of 2 models done, 1 left, ends about" in shown
    assert shown.split("\r")[-1].strip() == ""


@pytest.mark.parametrize(("models", "quiet"), [("a", False), ("ab", True)])
def test_of_a_single_model_and_when_quiet_nothing_is_told_of_models(
    monkeypatch: pytest.MonkeyPatch, models: str, quiet: bool
) -> None:
    terminal = replace_stderr(monkeypatch, real=False)
    with show_models(dict.fromkeys(models), quiet=quiet) as fleet:
        fleet.finished("a", PASSED)
    assert fleet.done == 1
    assert terminal.getvalue() == ""
