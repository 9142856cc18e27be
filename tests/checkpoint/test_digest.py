from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sw_audit.checkpoint import digest
from sw_audit.checkpoint.digest import FileState, digest_manifest, digest_paths, read_state
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.identity import FileDigest


def digest_files(folder: Path, *, allow_pickle: bool = False) -> tuple[FileDigest, ...]:
    policy = ModelPolicy(source=str(folder), allow_pickle=allow_pickle)
    return digest_paths(CheckpointFolder(folder, policy).weight_files, folder)


def _fill(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24, 25])
def test_a_file_is_digested_whole_whatever_its_length(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_CHUNK", 8)
    content = bytes(range(size))
    [file] = digest_files(_fill(tmp_path, model__safetensors=content))
    assert file == FileDigest(path="model.safetensors", size=size, sha256=hashlib.sha256(content).hexdigest())


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _fill(tmp_path, model__safetensors=b"first") / "model.safetensors"
    later = time.time_ns() + 61 * 10**9
    monkeypatch.setattr("sw_audit.checkpoint.digest.time.time_ns", lambda: later)
    first = digest_files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: pytest.fail("it was read again"))
        assert digest_files(tmp_path) == first
    file.write_bytes(b"other")
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))
    assert digest_files(tmp_path)[0].sha256 == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_was_changed_just_now_is_read_again_for_a_second_change_may_bear_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _fill(tmp_path, model__safetensors=b"first") / "model.safetensors"
    state = read_state(file)
    monkeypatch.setattr(digest, "read_state", lambda _: state)
    digest_files(tmp_path)
    file.write_bytes(b"other")
    assert digest_files(tmp_path)[0].sha256 == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize(
    ("changed", "settled"),
    [(0, False), (-59.9, False), (-60.1, True), (5.5, False)],
    ids=["now", "a second less than a minute ago", "more than a minute ago", "in the future"],
)
def test_a_state_proves_something_only_a_minute_after_the_change(changed: float, settled: bool) -> None:
    now = 1_800_000_000 * 10**9 + 5
    assert FileState(1, 2, 3, 4, now + int(changed * 1e9), 1).is_settled(now) is settled


def test_whole_seconds_are_times_of_a_file_system_that_proves_nothing() -> None:
    now = 1_800_000_000 * 10**9
    assert not FileState(1, 2, 3, 4, now - 3600 * 10**9, 1).is_settled(now)
    assert FileState(1, 2, 3, 4, now - 3600 * 10**9 + 1, 1).is_settled(now)


def test_the_state_tells_of_a_change_whose_time_was_set_back(tmp_path: Path) -> None:
    file = _fill(tmp_path, model__safetensors=b"first") / "model.safetensors"
    before, times = read_state(file), file.stat()
    time.sleep(0.02)  # more than the file system's clock takes for a tick
    file.write_bytes(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = read_state(file)
    assert after[:4] == before[:4]
    assert after != before


def test_progress_is_told_after_each_file_in_mebibytes(tmp_path: Path) -> None:
    for name, size in (("a", 1 << 20), ("b", 3 << 20), ("c", 10)):
        (tmp_path / name).write_bytes(bytes(size))
    told: list[tuple[str, int, int]] = []
    digest_paths(tmp_path.iterdir(), tmp_path, lambda *step: told.append(step))
    assert told == [("digesting", 1, 4), ("digesting", 4, 4), ("digesting", 4, 4)]


def test_only_the_files_that_are_opened_count(tmp_path: Path) -> None:
    _fill(tmp_path, pytorch_model__bin=b"b", consolidated__bin=b"c", config__json=b"{}")
    with pytest.raises(CheckpointError, match="allow_pickle"):
        digest_files(tmp_path)
    assert [file.path for file in digest_files(tmp_path, allow_pickle=True)] == ["pytorch_model.bin"]
    _fill(tmp_path, model__safetensors=b"a", consolidated__safetensors=b"c")
    assert [file.path for file in digest_files(tmp_path, allow_pickle=True)] == ["model.safetensors"]


def test_shards_are_listed_by_name_and_links_are_followed(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"first")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model-1.safetensors").symlink_to(blob)
    (folder / "model-2.safetensors").write_bytes(b"second")
    index = b'{"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors", "c": "model-2.safetensors"}}'
    (folder / "model.safetensors.index.json").write_bytes(index)
    files = digest_files(folder)
    assert [(file.path, file.size) for file in files] == [("model-1.safetensors", 5), ("model-2.safetensors", 6)]
    assert files[0].sha256 == hashlib.sha256(b"first").hexdigest()


def test_the_manifest_is_a_line_per_file_in_order_of_path() -> None:
    a = FileDigest(path="a", size=3, sha256="1" * 64)
    b = FileDigest(path="b", size=4, sha256="2" * 64)
    by_hand = hashlib.sha256(f"a 3 {'1' * 64}\nb 4 {'2' * 64}\n".encode()).hexdigest()
    assert digest_manifest([a, b]) == digest_manifest([b, a]) == by_hand
    assert digest_manifest([a]) != by_hand


@pytest.mark.parametrize(
    "module", ["sw_audit.checkpoint.folder", "sw_audit.checkpoint.digest", "sw_audit.corpus.text"]
)
def test_looking_at_files_needs_no_torch(module: str) -> None:
    probe = f"import {module}, sys; print(sorted({{'torch', 'transformers', 'datasets'}} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_looking_at_headers_needs_no_transformers_and_the_probe_can_fail() -> None:
    loaded = "print('torch' in sys.modules, 'transformers' in sys.modules)"
    probe = f"import sw_audit.checkpoint.lint_headers, sys; {loaded}"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout == "True False\n"
