"""Settings as they take effect: what is left out is the class's, whatever the format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.quantizing import pack_gguf

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.files.configuration import Configuration, read_configuration
from sw_audit.files.settings import compare_settings
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.specimen.shipped import specimen_path


def find(source: Path, **more: Any) -> CheckpointFolder:
    return CheckpointFolder.require(ModelPolicy(source=str(source), **more))


def write_config(folder: Path, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def read(folder: Path, **values: Any) -> Configuration:
    return read_configuration(find(write_config(folder, **values)))


def test_what_is_left_out_is_what_the_class_says(tmp_path: Path) -> None:
    read_back = read(tmp_path / "m", model_type="llama", hidden_size=64, num_attention_heads=4, foo=3)
    assert (read_back.config["head_dim"], read_back.config["num_key_value_heads"]) == (16, 4)
    assert read_back.config["rope_parameters.rope_theta"] == 10000.0
    assert read_back.known is not None
    assert ("head_dim" in read_back.known, "foo" in read_back.known) == (True, False)
    assert (read_back.generation["temperature"], read_back.generation["eos_token_id"]) == (1.0, 2)


def test_both_spellings_of_rotation_are_one(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    old = read(tmp_path / "old", model_type="llama", rope_theta=5e5, rope_scaling=scaling)
    new = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 512}
    assert old.config == read(tmp_path / "new", model_type="llama", rope_parameters=new).config


def test_the_decoders_settings_count_where_others_lie_around_them(tmp_path: Path) -> None:
    text = {"model_type": "llama", "rms_norm_eps": 1e-3}
    nested = read(tmp_path / "m", model_type="llava", text_config=text)
    assert (nested.nested, nested.config["rms_norm_eps"]) == (True, 1e-3)


def test_a_class_that_is_unknown_or_asked_for_too_much_leaves_what_is_written(tmp_path: Path) -> None:
    assert read(tmp_path / "m", model_type="of-tomorrow", a={"b": 1}).config["a.b"] == 1
    assert read(tmp_path / "n", model_type="qwen2", num_hidden_layers=10**9).known is None


def test_generation_settings_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (write_config(tmp_path / "m", model_type="llama") / "generation_config.json").write_text("[")
    assert "is not JSON" in read_configuration(find(tmp_path / "m")).unread


def pack(tmp_path: Path, name: str, **values: Any) -> Path:
    """Write the specimen as a GGUF file in a folder with its tokenizer, some settings changed."""
    pytest.importorskip("gguf")
    source = Path(shutil.copytree(specimen_path(), tmp_path / f"{name}-source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | values))
    target = tmp_path / name
    target.mkdir()
    for path in source.glob("tokenizer*"):
        shutil.copyfile(path, target / path.name)
    pack_gguf(source, target / "model.gguf", "Q8_0")
    return target


def list_serious(child: Path, parent: Path) -> list[str]:
    return [changed.key for changed in compare_settings(find(child), find(parent), Policy()).list_serious(())]


def test_a_gguf_file_is_held_to_what_it_can_say(tmp_path: Path) -> None:
    sound = pack(tmp_path, "sound")
    assert list_serious(sound, specimen_path()) == []
    assert list_serious(specimen_path(), sound) == []
    rotation = {"rope_theta": 500.0, "rope_type": "default"}
    broken = pack(tmp_path, "broken", rms_norm_eps=1e-2, max_position_embeddings=64, rope_parameters=rotation)
    keys = ["config.max_position_embeddings", "config.rms_norm_eps", "config.rope_parameters.rope_theta"]
    assert list_serious(broken, specimen_path()) == keys
    assert list_serious(broken, sound) == keys


def test_a_gguf_file_without_the_scaling_that_its_parent_has_is_told(tmp_path: Path) -> None:
    parent = Path(shutil.copytree(specimen_path(), tmp_path / "parent"))
    config = json.loads((parent / "config.json").read_text())
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (parent / "config.json").write_text(json.dumps(config | {"rope_parameters": scaled}))
    assert list_serious(pack(tmp_path, "child"), parent) == ["config.rope_parameters.rope_type"]


def save_head(folder: Path, scale: float, *, tied: bool) -> Path:
    """Save the specimen with a head that is its embedding times a number."""
    shutil.copytree(specimen_path(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * scale
    if tied:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    return folder


def test_embedding_and_head_in_one_or_in_two_are_the_same_where_they_agree(tmp_path: Path) -> None:
    tied, untied = save_head(tmp_path / "tied", 1.0, tied=True), save_head(tmp_path / "untied", 1.0, tied=False)
    other = save_head(tmp_path / "other", -1.0, tied=False)
    assert list_serious(untied, tied) == []
    assert list_serious(tied, untied) == []
    assert list_serious(other, tied) == ["config.tie_word_embeddings"]
    assert list_serious(tied, other) == ["config.tie_word_embeddings"]


def test_an_adapter_has_its_bases_settings_and_its_own_tokenizer(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    content = {"peft_type": "LORA", "base_model_name_or_path": str(specimen_path())}
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    assert list_serious(adapter, specimen_path()) == []
    for path in specimen_path().glob("tokenizer*"):
        shutil.copyfile(path, adapter / path.name)
    assert list_serious(adapter, specimen_path()) == []
    tokens = json.loads((adapter / "tokenizer.json").read_text())
    (adapter / "tokenizer.json").write_text(json.dumps(tokens | {"post_processor": None}))
    assert list_serious(adapter, specimen_path()) == ["tokenizer.bos", "tokenizer.special_tokens"]
