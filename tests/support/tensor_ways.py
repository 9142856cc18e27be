"""Ways of reading two checkpoints, each run in a fresh process: `python tensor_ways.py WAY MODEL PARENT`.

Prints one JSON object: seconds without the imports, and by how much the process's own memory grew at its highest,
in bytes; pages of mapped files, which the system takes back when it needs them, do not count.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.files.tensors import compare_tensors
from sw_audit.policy.policy import ModelPolicy

STATUS = Path("/proc/self/status")
_EVERY = 0.002


def read_bytes(*folders: Path) -> None:
    """Read the files as `cat` does."""
    buffer = bytearray(1 << 24)
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def read_tensors(*folders: Path) -> None:
    """Read every tensor once with safetensors, into memory of its own."""
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    file.get_tensor(name).clone()


def compare(model: Path, parent: Path) -> None:
    """Find each tensor's own in the parent: what `tensors-in-place` asks for."""
    folders = (CheckpointFolder.require(ModelPolicy(source=str(folder))) for folder in (model, parent))
    compared = compare_tensors(*folders)
    assert compared.compared
    assert not compared.counts


WAYS: dict[str, Callable[[Path, Path], None]] = {"bytes": read_bytes, "tensors": read_tensors, "compared": compare}


def read_own() -> int:
    """Return the bytes of memory that belong to the process alone."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def main(way: str, model: str, parent: str) -> None:
    """Run one of the ways."""
    before = peak = read_own()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_EVERY):
            peak = max(peak, read_own())

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.perf_counter()
    WAYS[way](Path(model), Path(parent))
    seconds = time.perf_counter() - started
    done.set()
    watching.join()
    sys.stdout.write(json.dumps({"seconds": seconds, "grown": peak - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
