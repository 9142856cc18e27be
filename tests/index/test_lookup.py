"""Looking up a model by its name, its variants and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.evidence import make_identity

from sw_audit.errors import IndexFileError, PolicyError
from sw_audit.index.lineage import read_ancestors
from sw_audit.index.lookup import find_nearest, find_policy_model, find_published, open_index
from sw_audit.index.reading import read_published
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.identity import FileDigest
from sw_audit.record.published import Match, PublishedIndex, PublishedModel

INDEX = read_published()


@pytest.mark.parametrize(
    ("asked", "model_id"),
    [
        ("huggyllama/llama-7b", "huggyllama/llama-7b"),
        ("huggyllama/LLAMA-7b", "huggyllama/llama-7b"),
        ("https://huggingface.co/HuggyLlama/llama-7b/", "huggyllama/llama-7b"),
        ("hf.co/huggyllama/llama-7b", "huggyllama/llama-7b"),
        ("meta-llama/llama-2-7B-HF", "meta-llama/Llama-2-7b"),
        ("gpt2", "openai-community/gpt2"),
        ("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("Unbabel/TowerInstruct-7B-v0.1", "Unbabel/TowerInstruct-7B-v0.1"),
    ],
)
def test_a_model_is_found_by_its_id_whatever_its_case(asked: str, model_id: str) -> None:
    lookup = find_published(INDEX, asked)
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match, lookup.inherited) == (model_id, Match.LISTED, False)
    assert lookup.asked == asked
    assert lookup.nearest == ()


@pytest.mark.parametrize(
    ("asked", "model_id", "words"),
    [
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-v0.1", "criticality is disputed"),
        ("META-LLAMA/llama-2-7b-chat-hf", "meta-llama/Llama-2-7b", "criticality is disputed"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "base of the Instruct model"),
        ("Unbabel/TowerInstruct-7B-v0.2", "Unbabel/TowerInstruct-7B-v0.1", "does not say which version"),
        ("allenai/OLMo-7B-0724-Instruct-hf", "allenai/OLMo-7B-0724-hf", "by its name an instruct or chat variant"),
        ("meta-llama/Llama-2-13b-chat-hf", "meta-llama/Llama-2-13b", "by its name an instruct or chat variant"),
        ("google/gemma-7b-it", "google/gemma-7b", "by its name an instruct or chat variant"),
        ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B", "nobody has published that they are as critical"),
    ],
)
def test_a_variant_has_the_coordinates_of_its_base_and_is_told_apart(
    asked: str, model_id: str, words: str
) -> None:
    lookup = find_published(INDEX, asked)
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match, lookup.inherited) == (model_id, Match.VARIANT, True)
    assert words in lookup.because


@pytest.mark.parametrize(
    "asked",
    [
        "someone/llama-7b",  # another owner: anybody may call anything llama-7b
        "mistralai/Mistral-7B-Instruct-v0.2",  # made from another base, which is not in the index
        "meta-llama/Llama-2-7b-chat-italian",  # the rest of the name differs too
        "huggyllama/llama-7b-instruct-v2",
        "huggyllama/llama-7",
        "instruct",
        "",
        "/",
    ],
)
def test_what_is_not_in_the_index_is_said_in_words(asked: str) -> None:
    lookup = find_published(INDEX, asked)
    assert (lookup.model, lookup.match, lookup.inherited) == (None, Match.NONE, False)
    assert "the index has no entry for" in lookup.because
    assert lookup.sources == ()


def test_the_nearest_ids_are_named_also_under_another_owner() -> None:
    assert find_nearest(INDEX, "someone/llama-7b")[0] == "huggyllama/llama-7b"
    assert "mistralai/Mistral-7B-v0.1" in find_nearest(INDEX, "mistralai/Mistral-7B-v0.3")
    assert find_nearest(INDEX, "hugyllama/lama-7b")[0] == "huggyllama/llama-7b"


@pytest.mark.parametrize(
    "name", ["zzzzzzzzzz", "llm_smollm", "model", "out/w4", "checkpoint-500", "Nemotron-30B", "7b"]
)
def test_what_is_not_near_is_not_named(name: str) -> None:
    assert find_nearest(INDEX, name) == ()


def test_a_family_is_near_however_far_its_names_are_apart() -> None:
    near = find_nearest(INDEX, "SmolLM2-135M-Instruct.Q4_1")
    assert near[0] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert all("SmolLM2" in key for key in near)


def test_an_answer_carries_the_sources_that_its_entry_cites_and_no_others() -> None:
    lookup = find_published(INDEX, "google/gemma-7b")
    assert [source.key for source in lookup.sources] == ["CODE"]
    source = lookup.cite("CODE")
    assert source is not None
    assert "github.com/mengxiayu/LLMSuperWeight" in source.reference
    assert lookup.cite("TEX") is None


def test_a_name_without_owner_that_several_entries_end_in_is_not_guessed() -> None:
    twins = PublishedIndex(
        schema_number=1, models=(PublishedModel(id="one/twin"), PublishedModel(id="other/Twin"))
    )
    assert find_published(twins, "twin").match is Match.NONE
    assert find_published(twins, "one/twin").match is Match.LISTED


def test_weights_of_the_same_digest_are_the_same_model_whatever_it_is_called() -> None:
    index = PublishedIndex(schema_number=1, models=(PublishedModel(id="/models/mine", digests=("ab" * 32,)),))
    lookup = find_published(index, "any/name", digests=("ab" * 32,))
    assert lookup.match is Match.DIGEST
    assert not lookup.inherited
    assert find_published(index, "any/name", digests=("cd" * 32,)).match is Match.NONE
    assert find_published(index, "any/name").match is Match.NONE


def test_a_single_file_is_known_by_its_sha256_whatever_it_is_called() -> None:
    [digest] = next(model.digests for model in INDEX.models if model.digests)
    files = (FileDigest(path="renamed.gguf", size=98_362_432, sha256=digest),)
    identity = make_identity().model_copy(update={"files": files})
    lookup = find_published(INDEX, "any/name", digests=identity.digests)
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match) == ("HuggingFaceTB/SmolLM2-135M-Instruct", Match.DIGEST)
    two = identity.model_copy(update={"files": files * 2})
    assert find_published(INDEX, "any/name", digests=two.digests).match is Match.NONE


def test_the_policy_can_name_the_entry_or_say_that_there_is_none() -> None:
    policy = Policy()
    named = find_policy_model(policy, ModelPolicy(source="./out/w4", index="HuggyLlama/llama-7b"))
    assert named.model is not None
    assert (named.model.id, named.match, named.asked) == ("huggyllama/llama-7b", Match.NAMED, "./out/w4")
    assert not named.inherited
    refused = find_policy_model(policy, ModelPolicy(source="huggyllama/llama-7b", index="none"))
    assert (refused.model, refused.match) == (None, Match.NONE)
    assert "the policy says" in refused.because
    assert find_policy_model(policy, ModelPolicy(source="huggyllama/llama-7b")).match is Match.LISTED


def test_a_policy_that_names_an_entry_that_there_is_not_is_one_line_with_the_nearest() -> None:
    with pytest.raises(PolicyError, match="write 'huggyllama/llama-7b'"):
        find_policy_model(Policy(), ModelPolicy(source="x", index="hugyllama/llama-7b"))
    with pytest.raises(PolicyError, match="see `sw-audit index`"):
        find_policy_model(Policy(), ModelPolicy(source="x", index="zzzzzzzz"))


def test_a_policys_own_index_that_is_missing_is_said() -> None:
    with pytest.raises(IndexFileError, match="No such file"):
        find_policy_model(Policy(index="/no/such/index.toml"), ModelPolicy(source="x"))
    assert open_index() is read_published()


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
    lookup = find_published(INDEX, write_folder(tmp_path / "w4", README_md=card(front)))
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match, lookup.inherited) == ("huggyllama/llama-7b", Match.DERIVED, True)
    assert "`base_model` of its model card" in lookup.because


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
    lookup = find_published(INDEX, write_folder(tmp_path / "tuned", config_json=text))
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match) == ("mistralai/Mistral-7B-v0.1", Match.DERIVED)
    assert "`_name_or_path` of its config.json" in lookup.because
    assert "criticality is disputed" in lookup.because


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    text = json.dumps({"base_model_name_or_path": "allenai/OLMo-1B-0724-hf"})
    lookup = find_published(INDEX, write_folder(tmp_path / "lora", adapter_config_json=text))
    assert lookup.model is not None
    assert lookup.model.id == "allenai/OLMo-1B-0724-hf"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"_name_or_path": 5}', '{"_name_or_path": "/data/llama-7b"}', "\x00"]
)
def test_a_configuration_that_says_nothing_usable_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_ancestors(Path(write_folder(tmp_path / "w4", config_json=text))) == ()


def test_the_place_in_the_hubs_cache_is_the_model_itself(tmp_path: Path) -> None:
    folder = tmp_path / "models--huggyllama--llama-7b" / "snapshots" / ("4" * 40)
    lookup = find_published(INDEX, write_folder(folder))
    assert lookup.model is not None
    assert (lookup.model.id, lookup.match, lookup.inherited) == ("huggyllama/llama-7b", Match.LISTED, False)


def test_a_folder_is_never_known_by_what_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "huggyllama" / "llama-7b", config_json="{}")
    monkeypatch.chdir(tmp_path)
    lookup = find_published(INDEX, "huggyllama/llama-7b")
    assert (lookup.model, lookup.match) == (None, Match.NONE)
    assert "its files name no model on the hub" in lookup.because
    assert lookup.nearest[0] == "huggyllama/llama-7b"


def test_a_parent_that_is_not_in_the_index_is_named_as_the_reason(tmp_path: Path) -> None:
    lookup = find_published(INDEX, write_folder(tmp_path / "x", README_md=card("base_model: some/parent")))
    assert lookup.model is None
    assert "names some/parent, which has none" in lookup.because
