"""What checking the digest of critical bytes costs a loader, against hashing the whole file (`make bench`)."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from support.benchmarks import take_seconds

from sw_audit.critical_bytes import check_bytes, digest_bytes

SIZE, SCALARS, REPEATS = 1 << 30, 8, 20
MOST_SECONDS, MOST_RATIO = 1e-3, 1e-3
IMPORT = (
    "from time import process_time as now; begun = now(); from sw_audit import check_bytes; print(now() - begun)"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 1 GiB, written once, so that it is in the system's memory for both ways."""
    path = tmp_path_factory.mktemp("weights") / "model.gguf"
    with path.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(bytes(1 << 20))
    return path


def test_checking_takes_less_than_a_millisecond_and_a_thousandth_of_hashing_the_file(weights: Path) -> None:
    # Of each scalar a scale, a minimum and a code.
    ranges = [
        (number * (SIZE // SCALARS) + place, size) for number in range(SCALARS) for place, size in ((0, 4), (9, 1))
    ]
    digest = weights.with_name("critical-bytes.json")
    digest.write_text(json.dumps(digest_bytes({weights: ranges})))
    assert check_bytes(digest, weights.parent) == ()

    def hash_whole() -> None:
        with weights.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    checking = median(take_seconds(lambda: check_bytes(digest, weights.parent))[0] for _ in range(REPEATS))
    hashing = median(take_seconds(hash_whole)[0] for _ in range(3))
    importing = median(float(_run(IMPORT)) for _ in range(5))
    print(f"\n{SIZE >> 20} MiB, {SCALARS} scalars in {len(ranges)} ranges")
    print(f"| sha256 of the file | {hashing:.2f} s |\n| check_bytes | {1e3 * checking:.3f} ms |")
    print(f"| of the whole | {checking / hashing:.1e} |\n| importing it, processor | {1e3 * importing:.0f} ms |")
    assert checking < MOST_SECONDS
    assert checking / hashing < MOST_RATIO


def _run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
