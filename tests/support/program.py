"""The program `sw-audit` under test."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from sw_audit.cli.main import app
from sw_audit.record.record import Record
from sw_audit.record.store import read_record

_STANDING = re.compile(r"^\[[\d:]+\] .*", re.MULTILINE)

COMMAND = (sys.executable, "-c", "from sw_audit.cli.main import run; run()")


@dataclass(frozen=True)
class Ending:
    """How the program ended.

    Attributes:
        code: Its exit code.
        out: What it wrote on standard output.
        err: What it wrote on standard error, but for where the work stands.
    """

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines on standard error."""
        return self.err.splitlines()


@dataclass(frozen=True)
class Program:
    """The program in a folder.

    Attributes:
        folder: Where it is run.
    """

    folder: Path

    def run(self, *arguments: object) -> Ending:
        """Run it in this process."""
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="sw-audit")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ending(result.exit_code, result.stdout, leave_progress_out(result.stderr))

    def told(self, *arguments: object) -> list[str]:
        """Run it in this process, and return where it said that the work stands, without the time."""
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="sw-audit")
        return [line.partition("] ")[2] for line in _STANDING.findall(result.stderr)]

    def start(self, *arguments: object, timeout: float = 300) -> Ending:
        """Run it in a process of its own."""
        command = [*COMMAND, *(str(argument) for argument in arguments)]
        run = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Ending(run.returncode, run.stdout, leave_progress_out(run.stderr))

    def record(self, path: str = "sw-audit-out/record.json") -> Record:
        """Return a record that was written."""
        return read_record(self.folder / path)

    def policy(self, path: str = "sw-audit-out/record.json") -> dict[str, Any]:
        """Return the policy of a record that was written, as JSON."""
        return self.record(path).policy.model_dump(mode="json", by_alias=True)

    def files(self) -> list[str]:
        """Return every file in the folder, but for what is remembered of measurements."""
        hidden = self.folder / ".sw-audit/cache"
        found = (path for path in self.folder.rglob("*") if path.is_file() and hidden not in path.parents)
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


def leave_progress_out(err: str) -> str:
    """Return what was written on standard error without the lines on where the work stands."""
    return re.sub(rf"{_STANDING.pattern}\n", "", err, flags=re.MULTILINE)


def heed_interrupts() -> None:
    """Let a process that is about to be started heed Ctrl-C, also where its parent was told to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
