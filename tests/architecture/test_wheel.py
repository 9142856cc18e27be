"""What a user installs: three packages, their data, the entry points, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [file] = folder.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.mark.slow
def test_the_wheels_top_level_is_exactly_three_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {"sw_audit", "pytest_sw_audit", "sw_audit_reports"}


@pytest.mark.slow
def test_the_wheel_carries_every_source_and_data_file(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for folder, package in (("", "sw_audit"), ("plugins", "pytest_sw_audit"), ("reports", "sw_audit_reports")):
        base = ROOT / folder
        expected |= {
            file.relative_to(base).as_posix()
            for file in (base / package).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"sw_audit/py.typed", "sw_audit/specimen/data/specimen/model.safetensors"} <= expected


@pytest.mark.slow
def test_the_wheel_registers_plugin_command_and_renderer(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert "[pytest11]\nsw_audit = pytest_sw_audit.plugin" in text
    assert "sw-audit = sw_audit.cli.main:run" in text
    assert "html = sw_audit_reports.html:render_html" in text


@pytest.mark.slow
def test_the_shipped_models_and_texts_stay_below_eight_megabytes() -> None:
    data = ROOT / "sw_audit" / "specimen" / "data"
    assert 0 < sum(file.stat().st_size for file in data.rglob("*") if file.is_file()) < 8_000_000
