"""What locating costs on three billion parameters, against loading the model whole (`make bench`)."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from support import locating_ways
from support.bulky import PLANTED, THREE_BILLION, write_llama

REPEATS = 3
WAYS = {
    "whole": "load whole, hook every layer, run once",
    "offload": "the same with accelerate's disk offload",
    "full": "streamed, `--depth full`",
    "early": "streamed, `--depth early`",
    "full with digest": "streamed, `--depth full --digest`",
}
TIME_TARGETS = {"full": 1.0, "early": 1 / 3}
MEMORY_TARGET = 1 / 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    folder = tmp_path_factory.mktemp("bulky") / "model"
    room = shutil.disk_usage(folder.parent).free
    if room < 8_000_000_000:
        pytest.skip(f"needs 8 GB of disk for a generated checkpoint, {room / 1e9:.1f} GB are free; ends with more")
    try:
        yield folder, write_llama(folder, THREE_BILLION)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_way(way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, locating_ways.__file__, way, str(folder)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200)
    measured: dict[str, Any] = json.loads(run.stdout)
    return measured


def test_locating_a_checkpoint_while_reading_it_against_loading_it_whole(checkpoint: tuple[Path, int]) -> None:
    folder, size = checkpoint
    ways = [way for way in WAYS if way != "offload" or importlib.util.find_spec("accelerate")]
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in folder.glob("*.safetensors"):  # so that the page cache is as warm for the first as for the last
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass
    # In turns, so that what else runs on the machine meets all of them.
    for _ in range(REPEATS):
        for way in ways:
            runs[way].append(run_way(way, folder))
    seconds = {way: median(run["seconds"] for run in runs[way]) for way in ways}
    peaks = {way: max(run["peak"] for run in runs[way]) for way in ways}

    print(
        f"\n{size / 1e9:.2f} GB of bfloat16 weights, page cache warm, median of {REPEATS} runs in fresh processes"
    )
    print("| way | seconds | of loading whole | target | peak resident memory | of the weights | target | found |")
    print("|---|---|---|---|---|---|---|---|")
    for way in ways:
        ours = way not in ("whole", "offload")
        print(
            f"| {WAYS[way]} | {seconds[way]:.2f} | {seconds[way] / seconds['whole']:.2f} "
            f"| {f'{TIME_TARGETS[way]:.2f}' if way in TIME_TARGETS else ''} | {peaks[way] / 1e6:.0f} MB "
            f"| {peaks[way] / size:.2f} | {f'{MEMORY_TARGET:.2f}' if ours else ''} | {runs[way][0]['found']} |"
        )
        assert all(run["found"] == list(PLANTED) for run in runs[way]), way
        assert not ours or peaks[way] <= MEMORY_TARGET * size, way
