"""Every way in which a checkpoint is known to fail, or to load broken in silence: one clear line each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import LLAMA_LIKE, Damage, Family, save_checkpoint, with_config, with_weights, without
from transformers import BertConfig, BertForMaskedLM, BertModel

from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy

Act = Callable[[ModelPolicy], object]
DOWN = "model.layers.1.mlp.down_proj.weight"
WEIGHTS = "model.safetensors"


def _spoil(name: str, value: float) -> Damage:
    return with_weights(lambda tensors: tensors[name][2, 3].fill_(value))


def _write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(kept: float) -> Damage:
    def cut(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: int(len(content) * kept)])

    return cut


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _lengthen(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def _lose_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _store_codes(tensors: dict[str, torch.Tensor]) -> None:
    tensors[DOWN] = torch.ones_like(tensors[DOWN], dtype=torch.int8)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"

# What is done to a healthy checkpoint, and what must then be said; all of it from the files alone.
IN_FILES: dict[str, tuple[Damage, str]] = {
    "an empty folder": (_empty, "the folder is empty"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
    "a config that is not JSON": (_write("config.json", b"{'model_type'"), "config.json is not JSON"),
    "a config that is not text": (_write("config.json", b"\xff\xfe{}"), "config.json is not JSON"),
    "a config that is a list": (_write("config.json", b"[]"), "config.json is not a JSON object"),
    "no model_type": (with_config(model_type=None), "names no model_type"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no model.safetensors"),
    "a truncated file": (_cut(0.5), r"model\.safetensors is cut off: its header promises \d+ bytes"),
    "a header cut off": (_cut(0.001), "is cut off within its header"),
    "an empty file": (_write(WEIGHTS, b""), r"model\.safetensors is empty \(0 bytes\)"),
    "a file that is too long": (_lengthen, "is too long"),
    "a git-LFS pointer": (_write(WEIGHTS, LFS), "git-LFS pointer.*git lfs pull"),
    "another kind of file": (_write(WEIGHTS, b"PK\3\4" * 50), "is not a safetensors file"),
    "a header that is no JSON": (_write(WEIGHTS, b"\4\0\0\0\0\0\0\0oops"), "is not a safetensors file"),
    "a pickle only": (_pickle, "only pytorch_model.bin, a pickle.*allow_pickle = true"),
    "integer codes": (with_weights(_store_codes), f"'{DOWN}' is stored as I8"),
    "a format that nobody reads back": (
        with_config(quantization_config={"quant_method": "hqq"}),
        r"stored by hqq: transformers cannot read back",
    ),
    "an adapter beside a model": (_write("adapter_config.json", b"{}"), "there is an adapter beside the model"),
    "no tokenizer": (_lose_tokenizer, "there is no tokenizer in the folder"),
    "an encoder-decoder": (with_config(is_encoder_decoder=True), "is an encoder-decoder model"),
}

# What only opening can tell.
IN_THE_MODEL: dict[str, tuple[Damage, str]] = {
    "an unknown model_type": (with_config(model_type="lama"), "model_type 'lama' is unknown to transformers"),
    "a config out of its mind": (with_config(hidden_size="wide"), "transformers cannot read config.json"),
    "NaN in the weights": (_spoil(DOWN, float("nan")), f"tensor '{DOWN}' holds NaN"),
    "one infinity": (_spoil(DOWN, float("inf")), f"tensor '{DOWN}' holds an infinity"),
    "one negative infinity": (_spoil("lm_head.weight", -float("inf")), "'lm_head.weight' holds an infinity"),
    "a missing tensor": (without(DOWN), f"tensor '{DOWN}' is missing"),
    "an unexpected tensor": (
        with_weights(lambda tensors: tensors.update(odd=torch.zeros(3))),
        "tensor 'odd' has no place in the model",
    ),
    "a layer too many": (
        with_config(num_hidden_layers=2),
        r"tensor 'model\.layers\.2.*has no place in the model \(and \d+ more like it\)",
    ),
    "another shape": (
        with_weights(lambda tensors: tensors.update({DOWN: torch.zeros(32, 41)})),
        rf"tensor '{DOWN}' has shape \[32, 41\], config.json asks for \[32, 40\]",
    ),
    "a tokenizer that is no JSON": (_write("tokenizer.json", b"{"), "transformers cannot read its tokenizer"),
    "code that comes with it": (
        with_config(model_type="odd", auto_map={"AutoConfig": "odd.OddConfig"}),
        "it needs code that comes with the checkpoint; read that code",
    ),
    "another task": (
        with_config(model_type="vit", architectures=["ViTModel"]),
        "is not a language model that transformers can open",
    ),
}


def _refusal(act: Act, source: Path | str, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        act(ModelPolicy.model_validate({"source": str(source), **options}))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model {str(source)!r}: ")
    # Asked, found, what to do.
    assert message.count("; ") >= 1
    assert len(message) < 400 + len(str(source))
    return message


acts = pytest.mark.parametrize("act", [inspect_checkpoint, open_checkpoint])


@pytest.mark.parametrize("case", [*IN_FILES, *IN_THE_MODEL])
def test_a_bad_checkpoint_is_one_clear_line(case: str, tmp_path: Path) -> None:
    damage, said = {**IN_FILES, **IN_THE_MODEL}[case]
    damage(save_checkpoint(tmp_path))
    _match(said, _refusal(open_checkpoint, tmp_path))
    if case in IN_FILES:
        _match(said, _refusal(inspect_checkpoint, tmp_path))


@acts
def test_a_path_that_is_no_folder_is_one_clear_line(act: Act, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        _match("there is no such folder; correct the path", _refusal(act, path))
    (tmp_path / WEIGHTS).touch()
    _match("this is a file; give the folder", _refusal(act, tmp_path / WEIGHTS))


@acts
def test_an_id_is_one_clear_line_when_the_hub_is_off(
    act: Act, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _match("no snapshot in the cache, and the hub is switched off", _refusal(act, "owner/name"))


@acts
def test_damaged_shards_are_one_clear_line(act: Act, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    shards = sorted(set(whole["weight_map"].values()))

    ghost = {"weight_map": {**whole["weight_map"], "ghost": shards[0]}}
    for text, said in (
        (json.dumps(ghost), f"promises tensor 'ghost' in {shards[0]}, which does not hold it"),
        (json.dumps({"weight_map": {"ghost": "../other.safetensors"}}), "outside of the folder"),
        ("{}", "has no map from tensors to files"),
        ("not JSON", r"model\.safetensors\.index\.json is not JSON"),
    ):
        index.write_text(text)
        _match(said, _refusal(act, folder))
    index.write_text(json.dumps(whole))
    (folder / shards[1]).unlink()
    _match(f"shard {shards[1]} is missing", _refusal(act, folder))


@pytest.mark.parametrize("architecture", [BertModel, BertForMaskedLM])
def test_an_encoder_is_one_clear_line(architecture: type, tmp_path: Path) -> None:
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    settings: Any = {key: LLAMA_LIKE[key] for key in keys}
    config = BertConfig(**settings)
    folder = save_checkpoint(tmp_path)
    architecture(config).save_pretrained(folder)
    _match("bert is an encoder-only model", _refusal(open_checkpoint, folder))


def test_a_model_without_a_down_projection_is_one_clear_line(tmp_path: Path) -> None:
    plain = {"hidden_size": 32, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8, "n_groups": 1}
    mamba = Family("mamba2", settings={**plain, "state_size": 8, "vocab_size": 60})
    _match("no layer has an MLP", _refusal(open_checkpoint, save_checkpoint(tmp_path, mamba)))


@pytest.mark.parametrize("device", ["cuda:77", "moon"])
def test_a_device_that_is_not_here_is_one_clear_line(device: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    _match(f"device '{device}' is not available here", _refusal(open_checkpoint, folder, device=device))


def test_garbage_in_a_pickle_that_is_allowed_is_one_clear_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    _match("transformers cannot read its weights", _refusal(open_checkpoint, folder, allow_pickle=True))


def test_a_pickle_with_code_does_not_run_it_even_when_it_is_allowed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    folder = save_checkpoint(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    torch.save({DOWN: Trap()}, folder / "pytorch_model.bin")
    _refusal(open_checkpoint, folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def _match(pattern: str, message: str) -> None:
    assert re.search(pattern, message), message
