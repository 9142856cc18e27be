"""A model is opened in the dtype that its weights have, bfloat16 only where the processor multiplies in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.quantizing import pack_gguf
from typer.testing import CliRunner

from sw_audit.checkpoint import dtype
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.stored import size_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.cli.main import app
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing.families import build_random_model


def write_specimen(folder: Path, kind: torch.dtype, *, declare: bool = True) -> Path:
    shutil.copytree(specimen_path(), folder)
    weights = {name: tensor.to(kind) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    declared = {"dtype": str(kind).removeprefix("torch.")} if declare else {}
    (folder / "config.json").write_text(json.dumps({**config, **declared}))
    return folder


@pytest.mark.parametrize(
    ("stored", "native", "opened"),
    [
        (torch.bfloat16, True, "bfloat16"),
        (torch.bfloat16, False, "float32"),
        (torch.float16, False, "float16"),
        (torch.float32, True, "float32"),
    ],
)
@pytest.mark.parametrize("declare", [True, False])
def test_bfloat16_is_kept_where_the_processor_multiplies_in_it(
    stored: torch.dtype, native: bool, opened: str, declare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: native)
    policy = ModelPolicy(source=str(write_specimen(tmp_path / "model", stored, declare=declare)))
    checkpoint = open_checkpoint(policy)
    assert checkpoint.identity.dtype == opened
    assert open_streaming(policy).identity.dtype == opened
    size = size_checkpoint(policy)
    assert size is not None
    assert size.width == getattr(torch, opened).itemsize
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for name, parameter in checkpoint.model.named_parameters():
        assert torch.equal(parameter, weights[name].to(parameter.dtype))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "llava"])
def test_so_it_is_in_every_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_random_model(family, layers=2).to(torch.bfloat16).save_pretrained(tmp_path)
    folder = CheckpointFolder(tmp_path, ModelPolicy(source=str(tmp_path)))
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: True)
    assert dtype.choose_dtype(folder) == "auto"
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: False)
    assert dtype.choose_dtype(folder) == "float32"


def test_what_a_policy_asks_for_and_another_device_are_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: False)
    folder = write_specimen(tmp_path / "model", torch.bfloat16)
    asked = ModelPolicy(source=str(folder), dtype="bfloat16")
    elsewhere = ModelPolicy(source=str(folder), device="cuda:0")
    assert open_checkpoint(asked).identity.dtype == "bfloat16"
    assert dtype.choose_dtype(CheckpointFolder(folder, elsewhere)) == "auto"


def test_what_is_written_again_keeps_the_dtype_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: False)
    folder, out = write_specimen(tmp_path / "model", torch.bfloat16), tmp_path / "out"
    command = ["quantize", str(folder), "--recipe", "int8/row", "--holdout", "none", "-q", "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    asked = ModelPolicy(source=str(folder), dtype="float32")
    assert dtype.keep_stored_dtype(asked) is asked


@pytest.mark.parametrize(
    ("kind", "source", "native", "chosen"),
    [
        ("BF16", torch.bfloat16, True, "bfloat16"),
        ("BF16", torch.bfloat16, False, "float32"),
        # The norms of this one are no bfloat16.
        ("BF16", torch.float32, True, "float32"),
        ("F16", torch.bfloat16, True, "float32"),
        ("Q8_0", torch.bfloat16, True, "float32"),
    ],
)
def test_a_gguf_file_is_opened_in_what_its_weights_need(
    kind: str, source: torch.dtype, native: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(dtype, "multiplies_bfloat16", lambda: native)
    made = write_specimen(tmp_path / "made", source)
    file = tmp_path / "model.gguf"
    tokens = [*map(chr, range(0x21, 0x7F)), "ab", *(f"unused{number}" for number in range(115))]
    pack_gguf(made, file, kind, tokens)
    checkpoint = open_checkpoint(ModelPolicy(source=str(file)))
    assert checkpoint.identity.dtype == chosen
    if kind == "BF16" and source is torch.bfloat16:
        own = open_checkpoint(ModelPolicy(source=str(made))).model.state_dict()
        for name, tensor in checkpoint.model.state_dict().items():
            assert torch.equal(tensor, own[name].to(tensor.dtype))
