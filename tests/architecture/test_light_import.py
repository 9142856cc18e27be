"""A plugin that every pytest run in the environment loads must cost next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "pydantic", "numpy", "altair", "rich", "typer")
PROOF = f"""
import sys
{{statement}}
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def loaded_by(statement: str) -> str:
    command = [sys.executable, "-c", PROOF.format(statement=statement)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    assert loaded_by("import pytest_sw_audit.plugin") == "[]"


def test_the_proof_can_fail() -> None:
    assert loaded_by("import pytest_sw_audit.plugin, pydantic") == "['pydantic']"


def test_the_front_door_opens_without_torch() -> None:
    assert "torch" not in loaded_by("import sw_audit")


LIGHT = ("sw_audit.checks.plan", "sw_audit.checks.registry", "sw_audit.cli.main")


@pytest.mark.parametrize("module", LIGHT)
def test_the_pure_middle_and_the_command_line_load_without_torch(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "torch" not in loaded
    assert "transformers" not in loaded


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "--version"], ["--help"]])
def test_asking_pytest_what_it_is_does_not_load_torch(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pytest", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "_pytest.config" in imported
    assert "torch" not in imported
    if arguments != ["--version"]:  # which pytest answers before it loads any plugin
        assert any(name.startswith("pytest_sw_audit") for name in imported)


def test_a_public_name_is_there_and_an_unknown_one_is_refused() -> None:
    import sw_audit

    assert set(sw_audit.__all__) == {*sw_audit._PUBLIC, "__version__"}
    for name in sw_audit.__all__:
        assert getattr(sw_audit, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        sw_audit.no_such_name  # noqa: B018 - reading it is the test
