from __future__ import annotations

import json
from pathlib import Path

import pytest

from sw_audit.index.lineage import read_ancestors
from sw_audit.index.lookup import find_published
from sw_audit.index.reading import read_published
from sw_audit.record.lookup import Match

INDEX = read_published()


def card(front: str, body: str = "# A model\n") -> str:
    return f"---\n{front}\n---\n{body}"


def write_folder(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_md", ".md").replace("_json", ".json")).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "front",
    [
        "base_model: huggyllama/llama-7b",
        "license: other\nbase_model: 'huggyllama/llama-7b'\ntags:\n- x",
        "base_model:\n- huggyllama/llama-7b",
        "base_model:\n  - huggyllama/llama-7b\nbase_model_relation: quantized",
        'base_model: ["HuggyLlama/LLAMA-7b"]',
    ],
)
def test_a_model_card_names_the_base_model(tmp_path: Path, front: str) -> None:
    found = find_published(INDEX, write_folder(tmp_path / "w4", README_md=card(front)))
    assert found.model is not None
    assert (found.model.id, found.match, found.inherited) == ("huggyllama/llama-7b", Match.DERIVED, True)
    assert "`base_model` of its model card" in found.because


@pytest.mark.parametrize(
    "text",
    [
        card("base_model:\n- huggyllama/llama-7b\n- huggyllama/llama-13b"),  # a merge
        card("base_model: ./llama-7b"),
        card("base_model:"),
        card("tags: [x]", "base_model: huggyllama/llama-7b\n"),  # prose, not front matter
        "base_model: huggyllama/llama-7b\n",
        card("datasets:\n- huggyllama/llama-7b"),
    ],
)
def test_a_model_card_that_names_no_single_model_on_the_hub_is_not_believed(tmp_path: Path, text: str) -> None:
    assert read_ancestors(Path(write_folder(tmp_path / "w4", README_md=text))) == ()


def test_what_transformers_wrote_into_the_configuration_is_believed(tmp_path: Path) -> None:
    text = json.dumps({"model_type": "llama", "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.1"})
    found = find_published(INDEX, write_folder(tmp_path / "tuned", config_json=text))
    assert found.model is not None
    assert (found.model.id, found.match) == ("mistralai/Mistral-7B-v0.1", Match.DERIVED)
    assert "`_name_or_path` of its config.json" in found.because
    assert "criticality is disputed" in found.because


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    text = json.dumps({"base_model_name_or_path": "allenai/OLMo-1B-0724-hf"})
    found = find_published(INDEX, write_folder(tmp_path / "lora", adapter_config_json=text))
    assert found.model is not None
    assert found.model.id == "allenai/OLMo-1B-0724-hf"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"_name_or_path": 5}', '{"_name_or_path": "/data/llama-7b"}', "\x00"]
)
def test_a_configuration_that_says_nothing_usable_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_ancestors(Path(write_folder(tmp_path / "w4", config_json=text))) == ()


def test_the_place_in_the_hubs_cache_is_the_model_itself(tmp_path: Path) -> None:
    folder = tmp_path / "models--huggyllama--llama-7b" / "snapshots" / ("4" * 40)
    found = find_published(INDEX, write_folder(folder))
    assert found.model is not None
    assert (found.model.id, found.match, found.inherited) == ("huggyllama/llama-7b", Match.LISTED, False)


def test_a_folder_is_never_known_by_what_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "huggyllama" / "llama-7b", config_json="{}")
    monkeypatch.chdir(tmp_path)
    found = find_published(INDEX, "huggyllama/llama-7b")
    assert (found.model, found.match) == (None, Match.NONE)
    assert "its files name no model on the hub" in found.because
    assert found.nearest[0] == "huggyllama/llama-7b"


def test_a_parent_that_is_not_in_the_index_is_named_as_the_reason(tmp_path: Path) -> None:
    found = find_published(INDEX, write_folder(tmp_path / "x", README_md=card("base_model: some/parent")))
    assert found.model is None
    assert "names some/parent, which has none" in found.because
