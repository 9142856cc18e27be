"""Many models at once: two workers of pytest-xdist, and two of Ray, over one process (`make bench`).

The models are 24 descendants of the specimen. Each way begins with an empty cache and pays for all of its
processes; the second run of each finds everything in its cache. A process takes seconds to import torch, which two
workers do at the same time, so small models are the hard case.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.descendants import write_descendants
from support.program import COMMAND

MODELS = 24
TARGET = 1.7
CACHED = 0.05
AUDIT = [*COMMAND, "audit", "fleet.swaudit.toml", "--no-report", "-q"]
PYTEST = [sys.executable, "-m", "pytest", "fleet.swaudit.toml", "-q", "--sw-audit-no-report"]
WAYS = {
    "one process": AUDIT,
    "2 workers of pytest-xdist": [*PYTEST, "-n", "2"],
    "2 processes": [*AUDIT, "-n", "2"],
    "2 workers of Ray": [*AUDIT, "--ray"],
}


def take(command: list[str], folder: Path) -> float:
    """Run a command and return the seconds that it takes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1, run.stdout + run.stderr  # every third model is broken
    return time.monotonic() - started


def test_many_models_over_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    policy = write_descendants(tmp_path, MODELS)
    cores = os.cpu_count()
    print(f"\n{MODELS} descendants of the specimen, {cores} cores, other load {os.getloadavg()[0]:.1f}")
    print("| way | first run, s | throughput over one process | target | second run over the first | target |")
    print("|---|---|---|---|---|---|")
    alone = 0.0
    for name, command in WAYS.items():
        shutil.rmtree(tmp_path / ".sw-audit", ignore_errors=True)
        first, second = take(command, policy.parent), take(command, policy.parent)
        alone = alone or first
        target = TARGET if name != "one process" else 1
        print(f"| {name} | {first:.1f} | {alone / first:.2f} | {target} | {second / first:.1%} | {CACHED:.0%} |")
