"""Spoil files of one kind where that leads to code that has not run before; atheris must be installed.

python -m tools.soak.guided KIND [-runs=N] [options of libFuzzer]

Ends at the first input that is neither read nor refused in one line, with its changes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sw_audit", "gguf"]):
    from tools.soak.fuzz import Edits, make_test


def main(kind: str, *options: str) -> None:
    """Spoil files until something falls over."""

    def note(edits: Edits, outcome: str, error: BaseException | None) -> None:
        if outcome == "defect":
            raise RuntimeError(f"{kind}: {error!r}: {edits}") from error

    with tempfile.TemporaryDirectory() as folder:
        test = make_test(kind, Path(folder), note)
        atheris.Setup([sys.argv[0], *options], test.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
