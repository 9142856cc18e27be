"""Every path in a policy file is taken from the folder that it lies in; ids and names stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sw_audit.policy.policy import Policy
from sw_audit.runner.assignments import anchor_paths
from sw_audit.specimen.shipped import control_path, find_shipped, specimen_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "base").mkdir(parents=True)
    (tmp_path / "deep" / "text.txt").write_text("words")
    return Path("deep")


def test_the_paths_of_a_descendant_are_taken_from_there(folder: Path) -> None:
    policy = Policy.model_validate(
        {
            "model": [
                {"source": "./a", "parent": "base", "base": "./base", "manifest": "sums.txt", "gguf": "base"},
                {"source": "./b", "parent": "a"},
                {"source": "./c", "parent": "owner/name", "base": "owner/other"},
                {"source": "./base"},
                {"source": "./d", "parent": "base", "id": "e"},
            ],
            "descent": {
                "texts": [{"source": "text.txt"}, {"source": "wikitext"}],
                "lm_eval_path": "tasks",
                "decisions": "asked.jsonl",
            },
        }
    )
    found = anchor_paths(policy, folder)
    # The first names a folder that is also the id of a model: the id counts.
    assert [model.parent for model in found.models] == ["base", "a", "owner/name", None, "base"]
    assert [model.base for model in found.models[:3]] == ["deep/base", None, "owner/other"]
    assert (found.models[0].manifest, found.models[0].gguf) == ("deep/sums.txt", "base")
    assert [text.source for text in found.descent.texts] == ["deep/text.txt", "wikitext"]
    assert (found.descent.lm_eval_path, found.descent.decisions) == ("deep/tasks", "deep/asked.jsonl")
    parent = found.find_parent(found.models[0])
    assert parent is not None
    assert parent.source == "./deep/base" or parent.source == "deep/base"


def test_a_parent_that_is_no_model_of_the_policy_is_a_path(folder: Path) -> None:
    policy = Policy.model_validate(
        {"model": [{"source": "./a", "parent": "base"}, {"source": "./b", "parent": "./gone"}]}
    )
    assert [model.parent for model in anchor_paths(policy, folder).models] == ["deep/base", "./deep/gone"]


def test_the_words_specimen_and_control_are_the_shipped_models_unless_there_is_a_path(folder: Path) -> None:
    policy = Policy.model_validate({"model": [{"source": "control", "parent": "specimen"}]})
    [model] = anchor_paths(policy, folder).models
    assert (model.id, model.source, model.parent) == ("control", str(control_path()), str(specimen_path()))
    assert find_shipped("specimen") == str(specimen_path())
    Path("specimen").mkdir()
    assert find_shipped("specimen") == "specimen"
