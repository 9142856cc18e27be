from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios

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


def test_on_a_terminal_a_bar_tells_the_stage_and_goes_away(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show(inner.pytester.parseconfig(*UNCAPTURED), monkeypatch)
    assert "llama-w4: measuring  25%" in shown
    assert shown.endswith("\r")


def test_nothing_is_shown_when_quiet_without_a_terminal_and_by_a_worker(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert show(inner.pytester.parseconfig(*UNCAPTURED, "-q"), monkeypatch) == ""
    config = inner.pytester.parseconfig(*UNCAPTURED)
    assert show(config, monkeypatch, real=False) == ""
    monkeypatch.setattr(config, "workerinput", {}, raising=False)
    assert show(config, monkeypatch) == ""


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
