from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import (
    DEEPSEEK,
    DENSE,
    EXPERTS,
    GPT2,
    HIDDEN,
    LAYERS,
    LLAMA,
    VISION,
    Family,
    make_model,
    rewrite_config,
    rewrite_weights,
    save_checkpoint,
)
from support.linting import assert_healthy, lint
from transformers.utils import logging as transformers_logging

from sw_audit.checkpoint.digest import digest_manifest
from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

DOWN = "model.layers.1.mlp.down_proj.weight"


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([[1, 5, 6, 7, 8]]), use_cache=False).logits
    return logits


@pytest.mark.parametrize("family", [*DENSE, *EXPERTS, *DEEPSEEK, *VISION], ids=str)
def test_each_family_is_healthy_and_opens_whole_and_layer_by_layer_as_it_was_saved(
    family: Family, tmp_path: Path
) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path, family, max_shard_size="40KB")))
    inspect_checkpoint(policy)
    report = lint(tmp_path)
    assert_healthy(report)
    checkpoint, streamed, original = open_checkpoint(policy), open_streaming(policy), make_model(family)
    assert type(checkpoint.model) is type(original)
    expected, opened = dict(original.named_parameters()), dict(checkpoint.model.named_parameters())
    assert opened.keys() == expected.keys() <= dict(streamed.model.named_parameters()).keys()
    assert all(torch.equal(opened[name], expected[name]) for name in expected)
    dense = family in (*DENSE, *VISION)
    assert [layer.down_projection is not None for layer in checkpoint.layers[1:]] == [dense] * (LAYERS - 1)
    assert checkpoint.identity.family == family.model_type
    assert streamed.identity == checkpoint.identity
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert {file.path for file in checkpoint.identity.files} == shards
    assert report.files == len(shards) > 1
    # Twice: what is let go can be brought in again.
    logits = run(checkpoint.model)
    assert torch.equal(run(streamed.model), logits)
    assert torch.equal(run(streamed.model), logits)


def test_the_model_is_ready_to_measure_and_its_identity_says_which_it_is(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "my llama")
    checkpoint = open_checkpoint(ModelPolicy(source=str(folder), dtype="bfloat16"))
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    identity = checkpoint.identity
    assert (identity.id, identity.source, identity.revision) == ("my llama", str(folder), None)
    assert (identity.architecture, identity.layers, identity.hidden_size) == ("LlamaForCausalLM", LAYERS, HIDDEN)
    assert (identity.dtype, identity.device) == ("bfloat16", "cpu")
    # Embedding and head 60 rows each; per layer q 48, k 24, v 24, o 48 and three times 40, all times 32;
    # two norms per layer and a last one of 32 each.
    assert identity.parameters == 2 * 60 * 32 + 3 * (48 + 24 + 24 + 48 + 3 * 40) * 32 + 7 * 32
    assert [file.path for file in identity.files] == ["model.safetensors"]
    assert identity.digest == digest_manifest(identity.files)


def test_tied_weights_are_neither_missing_nor_counted_twice(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(ModelPolicy(source=str(folder)))
    assert checkpoint.identity.parameters == 60 * 32 + 3 * (48 + 24 + 24 + 48 + 3 * 40) * 32 + 7 * 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_may_be_asked_for_and_auto_is_what_was_saved(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sw_audit.checkpoint.dtype.multiplies_bfloat16", lambda: True)
    make_model(LLAMA).to(getattr(torch, dtype)).save_pretrained(save_checkpoint(tmp_path))
    assert_healthy(lint(tmp_path))
    assert open_checkpoint(ModelPolicy(source=str(tmp_path))).identity.dtype == dtype
    opened = open_checkpoint(ModelPolicy(source=str(tmp_path), dtype="float32"))
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}


def test_a_matrix_is_found_by_its_name(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(save_checkpoint(tmp_path, GPT2))))
    matrix = checkpoint.matrix("transformer.h.1.mlp.c_proj.weight")
    assert tuple(matrix.weight.shape) == (HIDDEN, 40)
    assert checkpoint.matrix("transformer.h.0.attn.c_attn.weight").transposed
    with pytest.raises(KeyError):
        checkpoint.matrix("transformer.wte.weight")


def test_opening_says_nothing_and_leaves_settings_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_checkpoint(tmp_path)
    rewrite_config(folder, some_unknown_key=3)
    capfd.readouterr()

    def look() -> tuple[object, ...]:
        return (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            logging.getLogger().level,
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            dict(os.environ),
            list(warnings.filters),
        )

    before = look()
    open_checkpoint(ModelPolicy(source=str(folder)))
    assert look() == before
    assert capfd.readouterr() == ("", "")
    rewrite_weights(folder, lambda tensors: tensors.pop(DOWN))
    with pytest.raises(CheckpointError):
        open_checkpoint(ModelPolicy(source=str(folder)))
    assert look() == before
    assert capfd.readouterr() == ("", "")


def test_opening_a_path_asks_the_network_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    folder = save_checkpoint(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert open_checkpoint(ModelPolicy(source=str(folder))).identity.layers == LAYERS


def test_pickles_open_when_they_are_allowed(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert_healthy(lint(folder, allow_pickle=True))
    checkpoint = open_checkpoint(ModelPolicy(source=str(folder), allow_pickle=True))
    assert torch.equal(checkpoint.matrix(DOWN).weight, tensors[DOWN])
    assert [file.path for file in checkpoint.identity.files] == ["pytorch_model.bin"]


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


def test_code_that_comes_with_a_checkpoint_runs_only_when_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "odd")
    (folder / "odd.py").write_text(CODE + f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    rewrite_config(folder, model_type="odd", architectures=["OddForCausalLM"], auto_map=auto_map)
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a question was asked"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(CheckpointError, match="trust_remote_code = true"):
        open_checkpoint(ModelPolicy(source=str(folder)))
    assert not (tmp_path / "ran").exists()
    checkpoint = open_checkpoint(ModelPolicy(source=str(folder), trust_remote_code=True))
    assert (tmp_path / "ran").exists()
    assert checkpoint.identity.architecture == "OddForCausalLM"
    assert len(checkpoint.layers) == LAYERS


def test_an_id_is_opened_from_the_cached_snapshot_when_the_hub_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--small"
    save_checkpoint(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    identity = open_checkpoint(ModelPolicy(source="owner/small")).identity
    assert (identity.id, identity.source, len(identity.files)) == ("small", "owner/small", 1)
    with pytest.raises(CheckpointError, match="no snapshot in the cache"):
        open_checkpoint(ModelPolicy(source="owner/small", revision="another"))


def test_the_wider_of_two_tokenizers_is_not_taken_for_the_models(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, vocab_size=8)
    with pytest.raises(CheckpointError, match="17 tokens, its embedding only 8 rows"):
        open_checkpoint(ModelPolicy(source=str(folder)))
