"""A GGUF file is a model: configuration, tokenizer and lineage are its own, whatever lies beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from support.quantizing import pack_gguf
from support.stored import COLUMN, DOWN, ROW, VALUE, refuse
from typer.testing import CliRunner

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.cli.main import app
from sw_audit.index.lookup import find_published
from sw_audit.index.reading import read_published
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.published import Match
from sw_audit.specimen.shipped import specimen_path

pytest.importorskip("gguf")
TOKENS = (*(chr(letter) for letter in range(0x21, 0x7F)), "ab")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the specimen as a GGUF file with a tokenizer of its own, among the files of another model."""

    def write(name: str = "small.gguf", **texts: str) -> Path:
        for path in (*specimen_path().glob("*.json"), specimen_path() / "model.safetensors"):
            shutil.copyfile(path, tmp_path / path.name)
        tokens = (*TOKENS, *(f"unused{number}" for number in range(210 - len(TOKENS))))
        pack_gguf(specimen_path(), tmp_path / name, "Q8_0", tokens, texts)
        return tmp_path / name

    return write


def test_a_gguf_file_opens_by_itself_and_what_lies_beside_it_belongs_to_others(write: Write) -> None:
    file = write()
    (file.parent / "config.json").write_text("{")
    opened = open_checkpoint(ModelPolicy(source=str(file)))
    assert opened.identity.id == "small"
    assert [digest.path for digest in opened.identity.files] == ["small.gguf"]
    assert opened.tokenizer("ab")["input_ids"] == [TOKENS.index("ab")]
    weight = opened.matrix(f"{DOWN}.weight").weight
    assert weight[ROW, COLUMN].item() == pytest.approx(VALUE, rel=2e-3)  # 8 bits in groups of 32
    assert CheckpointFolder.require(ModelPolicy(source=str(file))).contents == (file,)


def test_what_is_made_of_a_gguf_file_is_a_checkpoint_with_its_tokenizer(write: Write) -> None:
    file, out = write(), write().parent / "out"
    command = ["quantize", str(file), "--recipe", "int4/group32", "--holdout", f"{DOWN}.weight[{ROW}, {COLUMN}]"]
    result = CliRunner().invoke(app, [*command, "-o", str(out)])
    assert result.exit_code == 0, result.output
    held = open_checkpoint(ModelPolicy(source=str(file))).matrix(f"{DOWN}.weight").weight[ROW, COLUMN]
    assert load_file(out / "model.safetensors")[f"{DOWN}.weight"][ROW, COLUMN] == held
    again = open_checkpoint(ModelPolicy(source=str(out)))
    assert again.tokenizer("ab")["input_ids"] == [TOKENS.index("ab")]
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 210


def test_a_gguf_file_without_a_tokenizer_or_cut_off_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bare.gguf"
    pack_gguf(specimen_path(), file, "Q8_0")
    assert "transformers cannot read its tokenizer" in str(refuse(file))
    file.write_bytes(file.read_bytes()[:-5000])
    assert "bare.gguf" in str(refuse(file))


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({"general.source.repo_url": "https://huggingface.co/huggyllama/llama-7b"}, Match.DERIVED),
        ({"general.source.huggingface.repository": "huggyllama/llama-7b"}, Match.DERIVED),
        ({"general.base_model.0.repo_url": "https://huggingface.co/huggyllama/llama-7b"}, Match.DERIVED),
        (
            {  # a merge
                "general.base_model.0.repo_url": "https://huggingface.co/huggyllama/llama-7b",
                "general.base_model.1.repo_url": "https://huggingface.co/huggyllama/llama-13b",
            },
            Match.NONE,
        ),
        ({"general.source.repo_url": "https://example.org/huggyllama/llama-7b"}, Match.NONE),
        ({"general.name": "llama-7b"}, Match.NONE),
    ],
)
def test_the_repository_in_a_files_metadata_is_believed_and_its_name_is_not(
    texts: dict[str, str], match: Match, write: Write
) -> None:
    lookup = find_published(read_published(), str(write(**texts)))
    assert lookup.match is match
    assert (lookup.model is None) is (match is Match.NONE)


def test_a_files_name_and_metadata_suggest_an_entry(write: Write) -> None:
    assert find_published(read_published(), str(write("small.gguf"))).nearest == ()
    called = find_published(read_published(), str(write("SmolLM2-135M-Instruct.Q4_1.gguf")))
    assert called.nearest[0] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    names = {"general.name": "Smollm2 135M 8k Mix1", "general.basename": "smollm2", "general.size_label": "135M"}
    assert (
        find_published(read_published(), str(write("small.gguf", **names)))
        .nearest[0]
        .startswith("HuggingFaceTB/SmolLM2-135M")
    )
    shutil.copyfile(write(), write().parent / "cut.gguf")
    (write().parent / "cut.gguf").write_bytes(b"GGUF")
    assert find_published(read_published(), str(write().parent / "cut.gguf")).nearest == ()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_layer_by_layer_a_gguf_file_is_what_it_is_when_opened_whole(
    kind: str, dtype: Literal["auto", "bfloat16"], tmp_path: Path
) -> None:
    tokens = (*TOKENS, *(f"unused{number}" for number in range(210 - len(TOKENS))))
    pack_gguf(specimen_path(), tmp_path / "small.gguf", kind, tokens)
    policy = ModelPolicy(source=str(tmp_path / "small.gguf"), dtype=dtype)
    whole, streamed = open_checkpoint(policy), open_streaming(policy)
    assert streamed.identity == whole.identity
    ran = [checkpoint.model(torch.arange(1, 40)[None]).logits for checkpoint in (whole, streamed)]
    assert torch.equal(*ran)
    assert streamed.read_module is not None
    for layer in whole.layers:
        read = streamed.read_module(layer.name)
        held = {f"{layer.name}.{name}": tensor for name, tensor in layer.module.named_parameters()}
        assert read.keys() == held.keys()
        assert all(torch.equal(read[name], held[name]) and read[name].dtype == held[name].dtype for name in held)
