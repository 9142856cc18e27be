"""Kill an audit at moments drawn at random, and look at what it leaves.

python -m tools.soak.kills [COUNT]
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from sw_audit.errors import AuditError
from sw_audit.record.record import Record
from sw_audit.record.store import read_record

COUNT, SEED = 50, 0
_COMMAND = (sys.executable, "-c", "from sw_audit.cli.main import run; run()")
_AUDIT = ("audit", "specimen", "--effort=quick", "--windows=16", "--quiet", "--save=kept")
_OUT = "sw-audit-out"


@dataclass(frozen=True)
class Kill:
    """What one kill left, and what the run after it made of that.

    Attributes:
        seconds: When the run was killed, from its start.
        ended: Whether it had ended by then.
        broken: Files that were neither whole nor absent.
        wrong: Whether the next run ended with other verdicts than one that nobody disturbed.
        leftovers: Temporary files and folders, and unconfirmed answers, that were there after the next run.
    """

    seconds: float
    ended: bool
    broken: tuple[str, ...]
    wrong: bool
    leftovers: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.broken or self.wrong or self.leftovers)


def kill_many(count: int = COUNT, seed: int = SEED) -> Iterator[Kill]:
    """Kill an audit of the specimen so many times, each time with SIGKILL, and yield what came of each.

    The audit writes all its files, keeps a baseline and a cache; each begins with what the one before has left,
    and every other one with an empty cache, so that it is killed while it measures, and not only while it writes.
    """
    moments = random.Random(seed)  # noqa: S311 - no secrets
    with tempfile.TemporaryDirectory() as place:
        folder, temporary = Path(place, "work"), Path(place, "tmp")
        folder.mkdir()
        temporary.mkdir()
        started = time.monotonic()
        expected, whole = _finish(folder, temporary), time.monotonic() - started
        others = {path.name for path in temporary.iterdir()}  # of torch
        for number in range(count):
            if number % 2 == 0:
                _clear_cache(folder, temporary)
            run = _start(folder, temporary)
            seconds = moments.uniform(0, whole)
            try:
                run.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            ended, broken = run.returncode != -signal.SIGKILL, tuple(_list_broken(folder))
            wrong = _finish(folder, temporary) != expected
            yield Kill(seconds, ended, broken, wrong, tuple(_list_leftovers(folder, temporary, others)))


def _start(folder: Path, temporary: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    nowhere, command = subprocess.DEVNULL, [*_COMMAND, *(arguments or _AUDIT)]
    return subprocess.Popen(  # noqa: S603 - our own
        command, cwd=folder, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True
    )


def _finish(folder: Path, temporary: Path) -> tuple[int, object]:
    """Run the audit to its end, and return its exit code and verdicts."""
    code = _start(folder, temporary).wait()
    return code, read_record(folder / _OUT / "record.json").verdicts


def _clear_cache(folder: Path, temporary: Path) -> None:
    _start(folder, temporary, "cache", "--clear").wait()


def _list_broken(folder: Path) -> Iterator[str]:
    """Yield the files of a run that are there and not whole, and those that do not go together."""
    records: dict[str, Record] = {}
    for name in (f"{_OUT}/record.json", f"{_OUT}/report.html", ".sw-audit/baselines/kept.json"):
        try:
            if (folder / name).exists():
                records[name] = read_record(folder / name)
        except AuditError:
            yield name
    cases = folder / _OUT / "junit.xml"
    try:
        if cases.exists():
            ElementTree.parse(cases)  # noqa: S314 - our own
    except ElementTree.ParseError:
        yield f"{_OUT}/junit.xml"


def _list_leftovers(folder: Path, temporary: Path, others: set[str]) -> Iterator[str]:
    yield from (path.name for path in temporary.iterdir() if path.name not in others)
    yield from (str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))
    yield from (str(path.relative_to(folder)) for path in folder.glob(".sw-audit/cache/staged"))


def main(count: int) -> None:
    """Kill so many times and print a line for each, and one for all."""
    kills = []
    for kill in kill_many(count):
        kills.append(kill)
        sys.stdout.write(f"{kill.seconds:6.2f} s: {'clean' if kill.clean else kill}\n")
        sys.stdout.flush()
    ended = sum(kill.ended for kill in kills)
    sys.stdout.write(f"{sum(kill.clean for kill in kills)} of {len(kills)} clean; {ended} had ended before\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
