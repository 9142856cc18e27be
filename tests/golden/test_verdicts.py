"""The verdicts on the models that ship with the program and on its demo: every figure and every sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.keeping import compare_or_keep
from golden.reading import audit, write_demo


def test_the_specimen_on_few_windows(tmp_path: Path) -> None:
    compare_or_keep("verdicts-few-windows", audit(tmp_path, "specimen", "--windows=16"))


@pytest.mark.slow
def test_the_specimen(tmp_path: Path) -> None:
    compare_or_keep("verdicts-specimen", audit(tmp_path, "specimen"))


@pytest.mark.slow
@pytest.mark.parametrize("expect", ["none", "some"])
def test_the_control(tmp_path: Path, expect: str) -> None:
    few = ["--windows=16"] if expect == "some" else []
    seen = audit(tmp_path, "control", f"--expect={expect}", *few)
    compare_or_keep(f"verdicts-control-expecting-{expect}", seen)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    compare_or_keep("verdicts-demo", audit(tmp_path, write_demo(tmp_path)))
