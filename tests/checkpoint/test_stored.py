"""Sizes from headers, held against what is in memory once a model is open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.checkpoints import EXPERTS, GPT2, LLAMA, Family, rewrite_config, save_checkpoint
from support.stored import DATA

from sw_audit.checkpoint import stored
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.stored import Size, open_stored, size_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy


def size(folder: Path, **options: object) -> Size:
    found = size_checkpoint(ModelPolicy.model_validate({"source": str(folder), **options}))
    assert found is not None
    return found


def count_bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("family", [LLAMA, EXPERTS[0]], ids=str)
def test_weights_and_their_largest_layer_are_as_large_as_in_the_open_model(
    family: Family, dtype: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path, family)
    found = size(folder, dtype=dtype)
    policy = ModelPolicy.model_validate({"source": str(folder), "dtype": dtype})
    model = open_checkpoint(policy).model
    assert found.memory == count_bytes(model.parameters())
    assert found.layer == max(count_bytes(layer.parameters()) for layer in model.model.layers)
    assert found.stored == (folder / "model.safetensors").stat().st_size
    assert (found.method, found.files, found.hidden, found.positions) == ("plain", 1, 32, 64)
    assert found.width == (2 if dtype == "bfloat16" else 4)


def test_a_configuration_says_how_wide_numbers_are_in_memory(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    whole = size(folder)
    half = size(rewrite_config(folder, dtype="float16"))
    assert (half.width, half.memory * 2, half.stored) == (2, whole.memory, whole.stored)


def test_shards_are_added_up_and_other_families_have_their_own_names(tmp_path: Path) -> None:
    found = size(save_checkpoint(tmp_path, GPT2, max_shard_size="40KB"))
    assert found.files == len(list(tmp_path.glob("*.safetensors"))) > 1
    assert (found.hidden, found.layer > 0) == (32, True)


def test_codes_count_as_they_are_stored() -> None:
    found = size(DATA / "llm-compressor-W4A16")
    assert found.method == "compressed-tensors"
    # Everything in the file but its header, which is short.
    assert found.stored * 0.8 < found.memory <= found.stored


def test_what_is_not_here_has_no_size_and_what_is_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert size_checkpoint(ModelPolicy(source="owner/name")) is None
    with pytest.raises(CheckpointError, match="there is no such folder"):
        size_checkpoint(ModelPolicy(source="./gone"))
    folder = save_checkpoint(tmp_path / "model")
    shutil.copyfile(folder / "config.json", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        size_checkpoint(ModelPolicy(source=str(folder)))


def test_a_file_is_mapped_anew_once_much_of_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path)
    opened: list[object] = []

    def count(*given: object, **named: object) -> object:
        opened.append(given)
        return safe_open(*given, **named)

    monkeypatch.setattr(stored, "safe_open", count)
    tensors = open_stored(CheckpointFolder.require(ModelPolicy(source=str(folder))))
    whole = {name: tensor.clone() for name, tensor in tensors.read_all()}
    assert len(opened) == 1
    total = sum(tensor.nbytes for tensor in whole.values())
    monkeypatch.setattr(stored, "_MAPPED_AT_ONCE", total // 3)
    for name, tensor in tensors.read_all():
        assert torch.equal(tensor, whole[name])
    assert 3 <= len(opened) - 1 <= 8
