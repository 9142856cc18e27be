"""The shipped models through pytest as a user has it: real measuring, the plugin found by its entry point."""

from __future__ import annotations

import inspect
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import pytest_sw_audit.fixtures

from sw_audit.record.store import read_record
from sw_audit.record.verdict import Verdict
from sw_audit.specimen.shipped import control_path, specimen_path

pytestmark = pytest.mark.slow

MODELS = (f"--sw-audit-model={specimen_path()}", f"--sw-audit-model={control_path()}")
CHECKS = ("super-weights-as-expected", "prune-collapses", "other-outliers-harmless")
# As few as give a verdict, and the arms of three checks: measuring itself is tested in its own room.
FEW = ("--sw-audit-windows=8", "--sw-audit-no-report", *(f"--sw-audit-check={check}" for check in CHECKS))


@pytest.fixture
def outer(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """One thread a process: figures are then the same however the work is divided."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return pytester


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    return read_record(folder / "sw-audit-out" / "record.json").verdicts


def count_cases(path: Path) -> int:
    return len(list(ElementTree.parse(path).getroot().iter("testcase")))  # noqa: S314 - written by this test


def test_two_workers_conclude_what_one_process_does(outer: pytest.Pytester) -> None:
    alone = outer.runpytest_subprocess(*MODELS, *FEW, "--tb=no", "--junitxml=one.xml")
    expected = read_verdicts(outer.path)
    shared = outer.runpytest_subprocess(*MODELS, *FEW, "--tb=no", "--junitxml=two.xml", "-n", "2")
    assert read_verdicts(outer.path) == expected
    assert shared.parseoutcomes() == alone.parseoutcomes()
    assert alone.ret == shared.ret == 0  # the control has no super weight, and none is expected of it
    statuses = {(one.model, one.check): str(one.status) for one in expected}
    assert [statuses["specimen", check] for check in CHECKS] == ["pass", "pass", "pass"]
    assert [statuses["control", check] for check in CHECKS] == ["pass", "skipped", "pass"]
    assert count_cases(outer.path / "one.xml") == count_cases(outer.path / "two.xml") == 6


def test_the_documented_example_holds_on_the_specimen(outer: pytest.Pytester) -> None:
    text = inspect.getdoc(pytest_sw_audit.fixtures) or ""
    outer.makepyfile(textwrap.dedent(text.partition("For instance::\n")[2]))
    options = (MODELS[0], *FEW, "--sw-audit-check=rtn-holdout-quality")
    chosen = "not sw_audit or sw_audit(check='prune-collapses')"
    run = outer.runpytest_subprocess(".", "-m", chosen, *options)
    run.assert_outcomes(passed=5, deselected=3)
