"""What killed processes have left goes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from sw_audit import leftovers
from sw_audit.leftovers import clear_leftovers, find_disk, name_temporary, temporary_folder


@pytest.fixture(autouse=True)
def _own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def name_of_killed() -> str:
    """Return a temporary name of a process that is gone."""
    program = "from sw_audit.leftovers import name_temporary; print(name_temporary())"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_files_and_folders_of_a_process_that_is_gone_are_taken_away(tmp_path: Path) -> None:
    gone = name_of_killed()
    (tmp_path / gone).touch()
    (tmp_path / "tmp" / gone).mkdir()
    (tmp_path / "tmp" / gone / "model.gguf").symlink_to(tmp_path)
    clear_leftovers(tmp_path, tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_alive_or_not_ours_stays(tmp_path: Path) -> None:
    others = [name_temporary(), "record.json", ".record.json.0123456789abcdef.tmp", ".sw-audit-x-1-2.tmp"]
    for name in others:
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "tmp"}


def test_a_link_that_bears_such_a_name_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / name_of_killed()).symlink_to(tmp_path / "precious")
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "tmp"]


def test_what_another_machine_left_goes_after_a_day_for_its_processes_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "_name_machine", lambda: "0" * 8)
        left = tmp_path / name_temporary()
    left.touch()
    clear_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 25 * 3600,) * 2)
    clear_leftovers(tmp_path)
    assert not left.exists()


def test_a_temporary_folder_is_its_owners_alone_and_goes(tmp_path: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == tmp_path / "tmp"
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "inside").touch()
    assert not folder.exists()


def test_large_files_lie_on_a_disk_where_the_systems_own_place_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mount(**kinds: str) -> None:
        mounts = [type("Mount", (), {"mountpoint": f"/{point}", "fstype": kind}) for point, kind in kinds.items()]
        monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)

    own = str(tmp_path).lstrip("/")
    mount(**{"": "ext4"})
    assert find_disk() == tmp_path / "tmp"
    mount(**{"": "ext4", own: "tmpfs"})
    assert find_disk() == Path("/var/tmp")  # noqa: S108
    mount(**{"": "ext4", own: "tmpfs", f"{own}/tmp": "ext4"})  # noqa: S108
    assert find_disk() == tmp_path / "tmp"
    mount(**{"": "tmpfs"})
    assert find_disk() is None
