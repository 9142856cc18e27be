"""A count that the files do not bear out is told from their headers: nothing that large is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import EXPERTS, GPT2, LLAMA, VISION, Family, rewrite_config, save_checkpoint
from support.linting import lint
from support.quantizing import pack_gguf
from support.stored import DATA, make, refuse

from sw_audit.checkpoint.bounds import refuse_excess
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.errors import BrokenWeightsError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

GPT_NEO = Family("gpt_neo", settings={"num_layers": 1, "attention_types": [[["global"], 1]], "hidden_size": 16})
MOE = next(family for family in EXPERTS if family.model_type == "qwen3_moe")


@pytest.mark.parametrize("count", [10**7, 10**9, 10**400], ids=["millions", "billions", "digits"])
@pytest.mark.parametrize(
    ("family", "key"),
    [
        *((LLAMA, key) for key in ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size")),
        *((LLAMA, key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim")),
        (MOE, "num_experts"),
        (MOE, "moe_intermediate_size"),
        *((GPT2, key) for key in ("n_layer", "n_embd", "n_head", "n_inner", "n_positions")),
    ],
    ids=str,
)
def test_a_count_far_beyond_the_tensors_is_one_line_and_a_flaw(
    family: Family, key: str, count: int, tmp_path: Path
) -> None:
    rewrite_config(save_checkpoint(tmp_path, family), **{key: count})
    error = refuse(tmp_path)
    assert isinstance(error, BrokenWeightsError)
    said = str(count) if count < 10**18 else "a number of more than 18 digits"
    assert f"config.json says {key} = {said}, and " in str(error)
    (flaw,) = lint(tmp_path).flaws
    assert (flaw.where, flaw.serious) == ("config.json", True)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_key_value_heads", "head_dim"])
def test_what_counts_multiply_to_is_bounded_too(key: str, tmp_path: Path) -> None:
    rewrite_config(save_checkpoint(tmp_path), **{key: 1_000_000})
    said = r"config\.json asks for a model of \d+ parameters, and the files hold 29408 at most;"
    assert re.search(said, str(refuse(tmp_path)))
    (flaw,) = lint(tmp_path).flaws
    assert (flaw.where, flaw.serious) == ("config.json", True)


def test_positions_without_a_table_are_bounded_only_by_what_no_model_takes(tmp_path: Path) -> None:
    rewrite_config(save_checkpoint(tmp_path), max_position_embeddings=10**9)
    assert "max_position_embeddings = 1000000000, and no model takes as many" in str(refuse(tmp_path))
    assert lint(rewrite_config(tmp_path, max_position_embeddings=10_485_760)).intact


@pytest.mark.parametrize("name", ["llm-compressor-W4A16", "llm-compressor-FP8"])
def test_a_quantized_checkpoint_is_bounded_before_its_library_is_asked_for(name: str, tmp_path: Path) -> None:
    folder = make(f"compressed-tensors-{name.rpartition('-')[2].lower()}", tmp_path)
    assert (DATA / name).is_dir()
    assert "says num_hidden_layers = 200000" in str(refuse(rewrite_config(folder, num_hidden_layers=200_000)))


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "context_length", "attention.head_count"])
def test_a_gguf_file_is_bounded_by_its_own_tensors(key: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "it.gguf"
    pack_gguf(specimen_path(), path, "Q8_0")
    _rewrite_number(path, f"llama.{key}", 1_000_000_000)
    error = refuse(tmp_path)
    assert isinstance(error, BrokenWeightsError)
    assert f"it.gguf says {key.rpartition('.')[2]} = 1000000000" in str(error)


def _rewrite_number(path: Path, key: str, number: int) -> None:
    content = bytearray(path.read_bytes())
    begin = content.index(key.encode()) + len(key) + 4  # after the key come four bytes of its type
    content[begin : begin + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)


def test_the_rank_of_an_adapter_is_bounded_by_its_tensors(tmp_path: Path) -> None:
    folder = make("lora", tmp_path)
    settings = json.loads((folder / "adapter_config.json").read_text())
    for change in ({"r": 10**7}, {"rank_pattern": {"q_proj": 10**7}}):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        assert "adapter_config.json says r = 10000000" in str(refuse(folder))


def test_numbers_of_layers_in_names_do_not_stretch_the_bound(tmp_path: Path) -> None:
    """A hostile name `layers.999999999` is one layer."""
    folder = CheckpointFolder(save_checkpoint(tmp_path), ModelPolicy(source=str(tmp_path)))
    rewrite_config(tmp_path, num_hidden_layers=200_000)
    far = {"model.layers.999999999.norm.weight": TensorHeader("F32", (32,), "model.safetensors")}
    with pytest.raises(BrokenWeightsError, match="num_hidden_layers = 200000, and the tensors have 1 numbers"):
        refuse_excess(folder, far)


def test_lists_that_make_layers_are_bounded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, GPT_NEO)
    rewrite_config(tmp_path, attention_types=[[["global"], 10**9]])
    assert "attention_types = 1000000000" in str(refuse(tmp_path))


@pytest.mark.parametrize("value", [True, None, "wide", 1.5, [], {"a": "b"}])
def test_what_is_no_count_is_left_to_others(value: Any, tmp_path: Path) -> None:
    folder = CheckpointFolder(save_checkpoint(tmp_path), ModelPolicy(source=str(tmp_path)))
    rewrite_config(tmp_path, num_hidden_layers=value)
    refuse_excess(folder, {"a": TensorHeader("F32", (), "model.safetensors")})


@pytest.mark.parametrize(("chosen", "refused"), [(4, False), (5, True)])
def test_no_token_goes_to_more_experts_than_there_are(chosen: int, refused: bool, tmp_path: Path) -> None:
    folder = rewrite_config(save_checkpoint(tmp_path, MOE), num_experts_per_tok=chosen)
    experts = json.loads((folder / "config.json").read_text())["num_local_experts"]
    assert experts == 4
    found = [flaw.found for flaw in lint(folder).flaws if flaw.serious]
    assert found == (["config.json says num_experts_per_tok = 5, and there are 4 experts"] if refused else [])
    if refused:
        assert found[0] in str(refuse(folder))


def test_where_there_is_one_expert_nothing_is_chosen(tmp_path: Path) -> None:
    folder = rewrite_config(save_checkpoint(tmp_path), num_local_experts=1, num_experts_per_tok=2)
    refuse_excess(CheckpointFolder.require(ModelPolicy(source=str(folder))), {"a": TensorHeader("F32", (1,), "a")})


@pytest.mark.parametrize("family", VISION, ids=str)
def test_the_positions_of_an_image_are_no_bound_for_those_of_a_text(family: Family, tmp_path: Path) -> None:
    text = {**family.settings["text_config"], "max_position_embeddings": 131072}
    save_checkpoint(tmp_path, family, text_config=text)
    folder = CheckpointFolder.require(ModelPolicy(source=str(tmp_path)))
    headers = {name: header for of_file in folder.headers.values() for name, header in of_file.items()}
    refuse_excess(folder, headers)
    rewrite_config(tmp_path, text_config={**text, "max_position_embeddings": 10**10})
    folder = CheckpointFolder.require(ModelPolicy(source=str(tmp_path)))
    with pytest.raises(BrokenWeightsError, match="no model takes as many"):
        refuse_excess(folder, headers)
