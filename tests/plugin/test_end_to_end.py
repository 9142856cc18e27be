"""The shipped models through pytest as a user has it: real measuring, the plugin found by its entry point."""

from __future__ import annotations

import inspect
import json
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import pytest_sw_audit.fixtures

from sw_audit.facts.limits import CHECK_IDS
from sw_audit.specimen.shipped import control_path, specimen_path

pytestmark = pytest.mark.slow

MODELS = (f"--sw-audit-model={specimen_path()}", f"--sw-audit-model={control_path()}")
FEW = ("--sw-audit-windows=16", "--sw-audit-no-report")


def read_verdicts(folder: Path) -> list[dict[str, Any]]:
    record: dict[str, Any] = json.loads((folder / "sw-audit-out" / "record.json").read_text(encoding="utf-8"))
    verdicts: list[dict[str, Any]] = record["verdicts"]
    return verdicts


def count_cases(path: Path) -> int:
    return len(list(ElementTree.parse(path).getroot().iter("testcase")))  # noqa: S314 - written by this test


def test_two_workers_conclude_what_one_process_does(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or threads of two workers on few cores wait for each other
    alone = pytester.runpytest_subprocess(*MODELS, *FEW, "--tb=no", "--junitxml=one.xml")
    expected = read_verdicts(pytester.path)
    shared = pytester.runpytest_subprocess(*MODELS, *FEW, "--tb=no", "--junitxml=two.xml", "-n", "2")
    assert read_verdicts(pytester.path) == expected
    assert shared.parseoutcomes() == alone.parseoutcomes()
    assert alone.ret == shared.ret == 1  # the control has no super weight, and some are expected
    statuses = {(one["model"], one["check"]): one["status"] for one in expected}
    assert len(statuses) == 2 * len(CHECK_IDS)
    assert all(statuses["specimen", check] == "pass" for check in ("super-weight-located", "prune-collapses"))
    assert statuses["control", "super-weight-located"] == "fail"
    assert count_cases(pytester.path / "one.xml") == count_cases(pytester.path / "two.xml") == len(statuses)


def test_the_documented_example_holds_on_the_specimen(pytester: pytest.Pytester) -> None:
    text = inspect.getdoc(pytest_sw_audit.fixtures) or ""
    pytester.makepyfile(textwrap.dedent(text.partition("For instance::\n")[2]))
    run = pytester.runpytest_subprocess(
        ".", "-m", "not sw_audit or sw_audit(check='prune-collapses')", MODELS[0], *FEW
    )
    run.assert_outcomes(passed=5, deselected=len(CHECK_IDS) - 1)
