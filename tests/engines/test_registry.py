"""Engines that other packages name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sw_audit.engines.registry import find_engine, find_engines
from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import ModelPolicy

MODULE = """
from dataclasses import replace
from sw_audit.engines.transformers import TRANSFORMERS_ENGINE
mine = replace(TRANSFORMERS_ENGINE, name="mine")
taken = replace(TRANSFORMERS_ENGINE, what="another of that name")
other = 3
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    find_engines.cache_clear()
    yield
    find_engines.cache_clear()
    sys.modules.pop("my_engines", None)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (folder / "my_engines.py").write_text(MODULE)
    metadata = folder / "my_engines-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-engines\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[sw_audit.engines]\nmine = my_engines:{target}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_an_engine_of_another_package_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "mine")
    assert find_engine(ModelPolicy(source="m", engine="mine")).name == "mine"
    assert {"mine", "transformers", "llama.cpp", "vllm", "openai"} <= set(find_engines())


@pytest.mark.parametrize(
    ("target", "words"),
    [("taken", "this name is taken"), ("other", "is a int"), ("missing", "cannot be loaded")],
)
def test_an_engine_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    install(tmp_path, monkeypatch, target)
    with pytest.raises(PolicyError, match=words) as caught:
        find_engines()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("engine 'mine' (my_engines:")
