"""What quantizing to 4 bits and back costs, against `tensor.clone()`, plain torch and other libraries.

Libraries that are not installed are left out of the tables. `-k tensor` measures one tensor alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import quantizing_ways
from support.bulky import ONE_BILLION, write_llama

WAYS = {
    "clone": ("`tensor.clone()`", None),
    "plain": ("plain torch, int4 in groups of 64", None),
    "ours": ("ours, int4 in groups of 64, into a new tensor", None),
    "ours in place": ("ours, int4 in groups of 64, into memory that is used again", None),
    "ours symmetric": ("ours, int4 in groups of 64, symmetric, likewise", None),
    "ours nf4": ("ours, NF4 in runs of 64, likewise", None),
    "bitsandbytes": ("bitsandbytes, NF4 in runs of 64", "bitsandbytes"),
    "torchao": ("torchao, int4 in groups of 64, symmetric", "torchao"),
    "hqq": ("HQQ, int4 in groups of 64, without its optimizer", "hqq"),
    "hqq optimized": ("HQQ, int4 in groups of 64", "hqq"),
    "quanto": ("quanto, int4 in groups of 64", "optimum.quanto"),
}
OURS = "ours in place"
LIKE = {
    "bitsandbytes": "ours nf4",
    "torchao": "ours symmetric",
    "hqq": OURS,
    "hqq optimized": OURS,
    "quanto": OURS,
}
"""Per library, what of ours makes the same levels."""
CLONES, PLAIN, LIBRARY = 4.0, 4.0, 6.0


def find_ways() -> list[str]:
    return [way for way, (_, package) in WAYS.items() if package is None or is_installed(package)]


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def run_way(way: str, what: str, threads: int) -> dict[str, Any]:
    """Measure in a fresh process, with as many threads as are asked for and no sleeping ones from elsewhere."""
    command = [sys.executable, quantizing_ways.__file__, way, what, str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600, env=environment)
    measured: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return measured


def print_table(runs: dict[str, dict[str, Any]], title: str) -> None:
    """Print the table, with bytes per second of bfloat16, and how far the targets are kept."""
    print(f"\n{title}")
    print("| way | seconds | GB/s | clones | peak extra memory | of these weights | times as long as ours |")
    print("|---|---|---|---|---|---|---|")
    for way, run in runs.items():
        size = 2 * run["weights"]
        print(
            f"| {WAYS[way][0]} | {run['seconds']:.3f} | {size / run['seconds'] / 1e9:.2f} "
            f"| {run['seconds'] / runs['clone']['seconds']:.1f} | {run['grown'] / 1e6:.0f} MB "
            f"| {run['grown'] / size:.2f} | {run['seconds'] / runs[OURS]['seconds']:.1f} |"
        )
    own = runs[OURS]["seconds"]
    print_target("clones", own / runs["clone"]["seconds"], "at most", CLONES)
    print_target("times as fast as plain torch", runs["plain"]["seconds"] / own, "at least", PLAIN)
    for way, like in LIKE.items():
        if way in runs:
            print_target(
                f"times as fast as {way}", runs[way]["seconds"] / runs[like]["seconds"], "at least", LIBRARY
            )


def print_target(what: str, found: float, word: str, target: float) -> None:
    kept = found <= target if word == "at most" else found >= target
    print(f"{found:.1f} {what}; target: {word} {target:.0f}: {'kept' if kept else 'missed'}")


@pytest.mark.parametrize("threads", sorted({1, os.cpu_count() or 1}))
def test_one_tensor(threads: int) -> None:
    ways = [way for way in find_ways() if way != "hqq optimized" or threads > 1]
    runs = {way: run_way(way, "tensor", threads) for way in ways}
    print_table(runs, f"4096 x 11008, bfloat16, {threads} threads, best of {quantizing_ways.REPEATS}")
    assert runs["ours"]["digest"] == runs[OURS]["digest"] == runs["plain"]["digest"]
    assert runs["clone"]["error"] == 0
    assert all(0.05 < run["error"] < 0.12 for way, run in runs.items() if way != "clone")
    if "bitsandbytes" in runs:
        assert runs["bitsandbytes"]["digest"] == runs["ours nf4"]["digest"]
    # One result, and a few pieces that fit into a cache.
    assert runs[OURS]["grown"] <= 2 * runs[OURS]["weights"] + 64e6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bulky") / "model"
    room = shutil.disk_usage(folder.parent).free
    if room < 4_000_000_000:
        pytest.skip(f"needs 4 GB of disk for a generated checkpoint, {room / 1e9:.1f} GB are free; ends with more")
    try:
        write_llama(folder, ONE_BILLION)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_model_of_a_billion_parameters(checkpoint: Path) -> None:
    threads = os.cpu_count() or 1
    ways: Sequence[str] = [way for way in find_ways() if way not in ("ours", "hqq optimized")]
    runs = {way: run_way(way, str(checkpoint), threads) for way in ways}
    weights, layer = runs[OURS]["weights"], runs[OURS]["largest_layer"]
    print_table(
        runs, f"{weights / 1e9:.2f} billion decoder weights, {layer / 1e6:.0f} MB a layer, {threads} threads"
    )
    grown = runs[OURS]["grown"]
    print_target("layers of peak extra memory", grown / layer, "at most", 1)
    # A layer, and what the pieces and the allocator take, whatever the size of the model.
    assert grown <= layer + 64e6
