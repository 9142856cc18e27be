"""The verdicts on the models that ship with the program and on its demo: every figure and every sentence.

What is kept was measured in steps, as by default. Measured thoroughly, every verdict is the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden.keeping import compare_or_keep
from golden.reading import audit, write_demo


def test_the_specimen_on_few_windows(tmp_path: Path) -> None:
    compare_or_keep("verdicts-few-windows", audit(tmp_path, "specimen", "--windows=96"))


@pytest.mark.slow
def test_the_specimen(tmp_path: Path) -> None:
    compare_or_keep("verdicts-specimen", audit(tmp_path, "specimen"))


@pytest.mark.slow
@pytest.mark.parametrize("expect", ["none", "some"])
def test_the_control(tmp_path: Path, expect: str) -> None:
    few = ["--windows=96"] if expect == "some" else []
    seen = audit(tmp_path, "control", f"--expect={expect}", *few)
    compare_or_keep(f"verdicts-control-expecting-{expect}", seen)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    compare_or_keep("verdicts-demo", audit(tmp_path, write_demo(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["specimen", "control", "the demo"])
def test_measured_thoroughly_every_verdict_is_the_same(tmp_path: Path, model: str) -> None:
    source = write_demo(tmp_path) if model == "the demo" else model
    stepwise, thorough = (
        audit(tmp_path, source, f"--effort={effort}")["figures"] for effort in ("standard", "thorough")
    )
    assert {key: figure["status"] for key, figure in stepwise.items()} == {
        key: figure["status"] for key, figure in thorough.items()
    }
