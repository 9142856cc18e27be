"""The rooms stay small, and every package says that it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sw_audit", "plugins/pytest_sw_audit", "reports/sw_audit_reports")
SAYS_NOTHING = {"utils.py", "util.py", "helpers.py", "common.py", "core.py", "misc.py", "types.py"}


def source_files() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_fits_in_a_room(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 250


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_begins_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith('"""')
    assert file.name not in SAYS_NOTHING


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_plugins_and_reports_are_folders_and_not_packages() -> None:
    assert not (ROOT / "plugins" / "__init__.py").exists()
    assert not (ROOT / "reports" / "__init__.py").exists()


def test_the_folder_reports_is_not_ignored() -> None:
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert "reports" not in ignored
