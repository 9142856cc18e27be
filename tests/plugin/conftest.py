"""Runs of pytest inside pytest, in which measuring is the stand-in of `support.fake_runner`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import fake_runner
from support.runs import Inner

# What an inner run is the first to import is forgotten after it, and imported anew by the next one.


@pytest.fixture
def inner(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Inner:
    """Run pytest in this process; see `separate` for one of its own."""
    notes = tmp_path_factory.mktemp("notes") / "notes.txt"
    monkeypatch.setenv("STANDIN_NOTES", str(notes))
    # Other plugins of the environment would be imported anew in every inner run; hypothesis takes seconds.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_sw_audit.plugin")
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    fake_runner.install(monkeypatch.setattr)
    return Inner(pytester, notes, pytester.runpytest_inprocess)


@pytest.fixture
def separate(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Run pytest in a process of its own, as pytest-xdist needs it."""
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_sw_audit.plugin,xdist.plugin")
    inner.pytester.makeconftest(fake_runner.CONFTEST)
    return Inner(inner.pytester, inner.notes, inner.pytester.runpytest_subprocess)


POLICY = """
[[model]]
source = "models/llama-w4"

[[model]]
source = "models/broken"
"""


@pytest.fixture
def policy_file(inner: Inner) -> Path:
    """A policy file with two models, one of which fails."""
    path: Path = inner.pytester.path / "audit.swaudit.toml"
    path.write_text(POLICY, encoding="utf-8")
    return path
