"""The program `sw-audit`, run in this process or in one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import fake_runner
from support.program import Program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Program(tmp_path)


@pytest.fixture
def quick(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program, with the stand-in for measuring; only for runs in this process."""
    monkeypatch.setenv("STANDIN_NOTES", str(tmp_path_factory.mktemp("notes") / "notes.txt"))
    fake_runner.install(monkeypatch.setattr)
    return program
