from __future__ import annotations

import importlib.metadata
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

HEAVY = ("torch", "transformers", "pydantic", "numpy")
RUN = f"""
import sys, pytest
code = pytest.main(sys.argv[1:])
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules], int(code))
"""


def run_alone(tmp_path: Path, *arguments: str) -> str:
    """Run pytest in a fresh interpreter, and tell what heavy modules it has loaded at the end."""
    command = [sys.executable, "-c", RUN, "-p", "no:hypothesispytest", "-p", "no:anyio", *arguments]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    return next(line for line in run.stdout.splitlines() if line.startswith("HEAVY"))


@pytest.mark.parametrize("arguments", [[], ["--collect-only"], ["-n", "1"]], ids=" ".join)
def test_a_run_that_asks_for_no_audit_stays_light_and_leaves_nothing(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    (tmp_path / "pyproject.toml").write_text('[[tool.sw_audit.model]]\nsource = "x"\n[tool.pytest]\n')
    if "-n" in arguments:  # the controller looks whether there is something to keep together, and finds the table
        (tmp_path / "pyproject.toml").write_text("[tool.pytest]\n")
    assert run_alone(tmp_path, *arguments, "-p", "no:cacheprovider") == "HEAVY [] 0"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "pyproject.toml",
        "test_mine.py",
    ]


def test_a_plugin_that_is_not_light_would_be_caught(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import numpy\n")
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    command = textwrap.dedent(RUN).replace("import sys,", "import sys; sys.path.insert(0, '.'); import sys,")
    run = subprocess.run(
        [sys.executable, "-c", command, "-p", "no:hypothesispytest", "-p", "heavy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "HEAVY ['numpy'] 0" in run.stdout


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
