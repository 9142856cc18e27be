"""Every file says what it is for, and every package says that it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sw_audit", "plugins/pytest_sw_audit", "reports/sw_audit_reports")
SAYS_NOTHING = {"utils.py", "util.py", "helpers.py", "common.py", "core.py", "misc.py", "types.py"}


def source_files() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def test_a_file_begins_with_what_it_is_for() -> None:
    assert [file for file in source_files() if not file.read_text().startswith('"""')] == []


def test_a_file_has_a_name_that_says_something() -> None:
    assert [file for file in source_files() if file.name in SAYS_NOTHING] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_plugins_and_reports_are_folders_and_not_packages() -> None:
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not (ROOT / "reports" / "__init__.py").exists()


def test_the_folder_reports_is_not_ignored() -> None:
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert "reports" not in ignored
