from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest
from pytest_sw_audit.progress import report_progress
from support.runs import Inner

UNCAPTURED = ("-p", "no:capture")


class Terminal(io.StringIO):
    """A terminal as far as writing to one goes."""

    def __init__(self, *, real: bool = True) -> None:
        super().__init__()
        self.real = real

    def isatty(self) -> bool:
        return self.real


def show(config: pytest.Config, monkeypatch: pytest.MonkeyPatch, *, real: bool = True) -> str:
    """Return what is written on standard error while a stage is a quarter done."""
    terminal = Terminal(real=real)
    monkeypatch.setattr(sys, "stderr", terminal)
    with report_progress(config, "llama-w4") as progress:
        progress("measuring", 1, 4)
    return terminal.getvalue()


def test_on_a_terminal_a_bar_tells_stage_and_time_left_and_goes_away(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = show(inner.pytester.parseconfig(*UNCAPTURED), monkeypatch)
    assert "llama-w4: measuring  25%" in shown
    assert ", time left unknown" in shown
    assert shown.endswith("\r")


@pytest.mark.parametrize("real", [False, True])
def test_nothing_is_shown_when_quiet(inner: Inner, monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    assert show(inner.pytester.parseconfig(*UNCAPTURED, "-q"), monkeypatch, real=real) == ""


def test_without_a_terminal_the_reporter_tells_each_stage_when_it_is_verbose(inner: Inner) -> None:
    loud = inner.audit("llama-w4", options=("-v", "-k", "prune"))
    loud.stdout.fnmatch_lines(["[[]00:0?[]] llama-w4: measuring", "*prune-collapses PASSED*"])
    for options in ((), ("-q",)):
        inner.audit("llama-w4", options=(*options, "-k", "prune")).stdout.no_fnmatch_line("*: measuring*")


def test_without_a_terminal_a_line_comes_every_thirty_seconds(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, terminal = [100.0], Terminal(real=False)
    monkeypatch.setattr(time, "monotonic", lambda: hands[0])
    monkeypatch.setattr(sys, "stderr", terminal)
    with report_progress(inner.pytester.parseconfig(*UNCAPTURED), "llama-w4") as progress:
        for seconds, done in ((0, 0), (29, 1), (1, 2), (29, 3), (1, 4)):
            hands[0] += seconds
            progress("measuring", done, 8)
    assert terminal.getvalue().splitlines() == [
        "[00:30] llama-w4: measuring: 2 of 8, about 1 min 30 s left",
        "[01:00] llama-w4: measuring: 4 of 8, about 1 min left",
    ]


def test_a_worker_writes_lines_on_a_terminal_too(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    config = inner.pytester.parseconfig(*UNCAPTURED, "-v")
    monkeypatch.setattr(config, "workerinput", {}, raising=False)
    assert show(config, monkeypatch) == "[00:00] llama-w4: measuring\n"


def test_the_bar_reaches_the_terminal_although_pytest_captures(separate: Inner) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "pytest", "--sw-audit-model=llama-w4"]
    run = subprocess.run(
        command, cwd=separate.pytester.path, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True
    )
    os.set_blocking(ours, False)
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "llama-w4: measuring" in shown
    assert "measuring" not in run.stdout.decode()


@pytest.mark.parametrize(
    "options", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "shared"]
)
def test_of_several_models_the_reporter_tells_how_many_are_done(separate: Inner, options: tuple[str, ...]) -> None:
    models = ("llama-w4", "broken", "llama-w2")
    loud = separate.audit(*models, options=("-v", "--tb=no", *options)).stdout.str()
    told = [line.partition(", ends")[0] for line in loud.splitlines() if " models done" in line]
    assert [line[: len("sw-audit: 1 of 3 models done")] for line in told] == [
        f"sw-audit: {done} of 3 models done" for done in (1, 2, 3)
    ]
    assert told[-1] == "sw-audit: 3 of 3 models done, 1 failing"
    for quiet in ((), ("-q",)):
        assert " models done" not in separate.audit(*models, options=(*quiet, "--tb=no", *options)).stdout.str()


def test_of_many_models_the_table_is_of_models_the_worst_first(inner: Inner) -> None:
    models = [*(f"llama-{place}" for place in range(9)), "broken"]
    run = inner.audit(*models, options=("--tb=no",))
    run.stdout.fnmatch_lines(["model * verdict *", "broken *FAIL*", "9 of 10 models pass; everything is *"])
    inner.audit(*models, options=("--tb=no", "-v")).stdout.fnmatch_lines(["model * check *"])
