"""What the program answers to input that cannot be used: the exit code and every word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden.damage import MODELS, PACKED
from golden.keeping import compare_or_keep
from golden.reading import Entries, find_specimen, list_failures, refuse, switch_hub_off
from golden.refusals import COMMANDS, POLICIES, SPECIMEN
from golden.test_gate import STORED
from support.checkpoints import save_checkpoint


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    switch_hub_off(monkeypatch, tmp_path / "hub")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders to run in, one after the other, each empty."""

    def make() -> Iterator[Path]:
        for number in range(1000):
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            yield folder

    return make()


def test_models(folders: Iterator[Path]) -> None:
    healthy = save_checkpoint(next(folders) / "model")
    located: Entries = {}
    audited: Entries = {}
    for (what, damage), folder in zip(MODELS.items(), folders, strict=False):
        shutil.copytree(healthy, folder / "model")
        damage(folder / "model")
        located[what] = refuse(folder, "locate", "./model", "--json")
        audited[what] = [*refuse(folder, "audit", "./model", "--no-report"), *list_failures(folder)]
    compare_or_keep("errors-models", {"locate": located, "audit": audited}, rounded=False)


def test_packed_models(folders: Iterator[Path]) -> None:
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    said: Entries = {}
    for (what, (name, damage)), folder in zip(PACKED.items(), folders, strict=False):
        shutil.copytree(STORED / f"llm-compressor-{name}", folder / "model")
        for file in find_specimen().glob("tokenizer*"):
            shutil.copyfile(file, folder / "model" / file.name)
        damage(folder / "model")
        said[what] = refuse(folder, "locate", "./model", "--json")
    compare_or_keep("errors-packed", {"locate": said}, rounded=False)


def test_policies(folders: Iterator[Path]) -> None:
    said: Entries = {}
    for (what, text), folder in zip(POLICIES.items(), folders, strict=False):
        told = text if b"model]" in text or what == "no model" else text + SPECIMEN
        told = told.replace(b'"specimen"', f'"{find_specimen()}"'.encode())
        (folder / "mine.swaudit.toml").write_bytes(told)
        said[what] = refuse(folder, "audit", "mine.swaudit.toml")
    compare_or_keep("errors-policies", {"audit": said}, rounded=False)


def test_commands(folders: Iterator[Path]) -> None:
    said: Entries = {}
    for (what, refusal), folder in zip(COMMANDS.items(), folders, strict=False):
        for name, content in refusal.files.items():
            (folder / name).write_bytes(content)
        said[f"{what}: {' '.join(refusal.arguments)}"] = refuse(folder, *refusal.arguments)
        assert sorted(os.listdir(folder)) == sorted(refusal.files), what  # noqa: PTH208
    compare_or_keep("errors-commands", {"commands": said}, rounded=False)
