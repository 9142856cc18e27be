"""Whatever is wrong with the input: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.checkpoints import rewrite_weights, save_checkpoint
from support.program import Program
from transformers import BertConfig, BertForMaskedLM, Mamba2Config, Mamba2ForCausalLM

WEIGHTS = "model.safetensors"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _lose_shard(folder: Path) -> None:
    names = {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "x": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")


def _spoil(folder: Path) -> None:
    def spoil_(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")

    rewrite_weights(folder, spoil_)


def _replace(model: Callable[[], torch.nn.Module]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        model().save_pretrained(folder)  # type: ignore[operator] # transformers adds it

    return replace


def _encoder() -> torch.nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForMaskedLM(BertConfig(vocab_size=60, **sizes))


def _without_down_projection() -> torch.nn.Module:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 4,
        "head_dim": 8,
        "n_groups": 1,
    }
    return Mamba2ForCausalLM(Mamba2Config(vocab_size=60, **sizes))


MODELS: dict[str, Callable[[Path], object]] = {
    "a path that does not exist": shutil.rmtree,
    "an empty folder": _empty,
    "config.json that is not JSON": lambda folder: (folder / "config.json").write_text("{'"),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "an encoder-only model": _replace(_encoder),
    "a model without a down-projection": _replace(_without_down_projection),
}
BROKEN: dict[str, Callable[[Path], object]] = {
    "a truncated file": _cut,
    "a file of 0 bytes": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "a missing shard": _lose_shard,
    "NaN in the weights": _spoil,
}
POLICIES = {
    "a misspelt key": ("sede = 1", "seed"),
    "a wrong type": ('seed = "many"', "seed"),
    "an unknown check": ("[checks.prune-colapses]\nminimum_ratio = 2", "prune-collapses"),
    "a limit out of range": ("[checks.prune-collapses]\nminimum_ratio = -1", "minimum_ratio"),
    "no TOML": ("seed = = 1", "TOML"),
}


def assert_one_line(program: Program, *arguments: object, told: str = "") -> None:
    before = program.files()
    ending = program.run(*arguments)
    assert ending.code == 2
    assert ending.out == ""
    (line,) = ending.complaints
    assert line.startswith("sw-audit: ")
    assert told in line
    assert "Traceback" not in line
    assert program.files() == before


@pytest.fixture
def model(program: Program) -> Path:
    return save_checkpoint(program.folder / "model")


@pytest.mark.parametrize("what", MODELS)
def test_a_model_that_cannot_be_used_or_in_which_nothing_can_be_located(
    program: Program, model: Path, what: str
) -> None:
    MODELS[what](model)
    assert_one_line(program, "audit", "./model", told="model './model'")
    assert_one_line(program, "locate", "./model", "--json", told="model './model'")


@pytest.mark.parametrize("what", BROKEN)
def test_weights_that_are_broken_fail_an_audit_and_leave_nothing_to_locate_in(
    program: Program, model: Path, what: str
) -> None:
    BROKEN[what](model)
    assert_one_line(program, "locate", "./model", "--json", told="model './model'")
    audit = program.run("audit", "./model", "--no-report")
    assert audit.code == 1
    assert "FAIL model weights-intact" in audit.out
    assert "Traceback" not in audit.out + audit.err


@pytest.mark.parametrize("what", POLICIES)
def test_a_policy_that_does_not_say_what_it_means(program: Program, what: str) -> None:
    text, told = POLICIES[what]
    for name in ("audit.swaudit.toml", "mine.toml"):
        (program.folder / name).write_text(f'{text}\n[[model]]\nsource = "specimen"\n')
        assert_one_line(program, "audit", name, told=told)


def test_a_check_that_there_is_not(program: Program) -> None:
    assert_one_line(program, "audit", "specimen", "--check=prune-colapses", told="prune-collapses")


def test_a_policy_file_that_is_not_there(program: Program) -> None:
    assert_one_line(program, "audit", "none.swaudit.toml", told="none.swaudit.toml")
    assert_one_line(program, "audit", "specimen", "--policy=none.toml", told="none.toml")


@pytest.mark.parametrize(
    "text", [None, b"", b"\xff\xfe\x00bad", b"mill river"], ids=["none", "empty", "bytes", "short"]
)
def test_a_corpus_that_cannot_be_used(program: Program, text: bytes | None) -> None:
    if text is not None:
        (program.folder / "text.txt").write_bytes(text)
    assert_one_line(program, "audit", "specimen", "--corpus=./text.txt", told="text.txt")


@pytest.mark.parametrize("text", [None, "", "[tool.other]\n", "sw-audit-index = 2\n"], ids=str)
def test_an_index_of_ones_own_that_cannot_be_used(program: Program, text: str | None) -> None:
    if text is not None:
        (program.folder / "mine.toml").write_text(text)
    assert_one_line(program, "audit", "specimen", "--index=mine.toml", told="index mine.toml")
    assert_one_line(program, "index", "--file=mine.toml", told="index mine.toml")


def test_an_entry_of_the_index_that_there_is_not(program: Program) -> None:
    (program.folder / "it.swaudit.toml").write_text(
        '[[model]]\nsource = "specimen"\nindex = "huggyllama/lama-7b"\n'
    )
    assert_one_line(program, "audit", "it.swaudit.toml", told="write 'huggyllama/llama-7b'")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_report_folder_that_cannot_be_written(program: Program, place: str) -> None:
    (program.folder / "file").touch()
    assert_one_line(program, "audit", "specimen", f"--out={place}", told=place)
