from __future__ import annotations

import importlib.metadata
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("installed", "plugins"),
    [
        (["sw_audit"], ["pytester"]),
        ([], ["pytester", "pytest_sw_audit.plugin"]),
        (["other"], ["pytester", "pytest_sw_audit.plugin"]),
    ],
)
def test_the_root_conftest_names_the_plugin_only_where_no_entry_point_does(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], plugins: list[str]
) -> None:
    def entry_points(*, group: str) -> list[SimpleNamespace]:
        assert group == "pytest11"
        return [SimpleNamespace(name=name) for name in installed]

    found: Callable[..., object] = entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", found)
    assert runpy.run_path(str(ROOT / "conftest.py"))["pytest_plugins"] == plugins


def test_loading_the_plugin_twice_would_end_the_run_which_is_why(pytester: pytest.Pytester) -> None:
    run = pytester.runpytest_subprocess("-p", "pytest_sw_audit.plugin")
    assert run.ret != 0
    run.stderr.fnmatch_lines(["*already registered*"])
