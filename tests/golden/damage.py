"""Ways to damage a healthy checkpoint, by its files alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.checkpoints import rewrite_config, rewrite_weights
from transformers import BertConfig, BertForMaskedLM, BertModel, Mamba2Config, Mamba2ForCausalLM

Damage = Callable[[Path], object]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def lose(name: str) -> Damage:
    return lambda folder: [path.unlink() for path in folder.glob(name)]


def cut(kept: float) -> Damage:
    def act(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: int(len(content) * kept)])

    return act


def lengthen(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"\0")


def configure(**changes: Any) -> Damage:
    return lambda folder: rewrite_config(folder, **changes)


def put(name: str, tensor: torch.Tensor) -> Damage:
    return lambda folder: rewrite_weights(folder, lambda tensors: tensors.update({name: tensor}))


def drop(name: str) -> Damage:
    return lambda folder: rewrite_weights(folder, lambda tensors: tensors.pop(name))


def spoil(name: str, value: float) -> Damage:
    """Replace the first number of a tensor."""

    def act(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[0] = value

    return lambda folder: rewrite_weights(folder, act)


def store_codes(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.int8)}))


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def pickle_garbage(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage")


def shard(index: str | dict[str, Any], *, missing: bool = False) -> Damage:
    """Call the file the first of two shards, under an index."""

    def act(folder: Path) -> None:
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / INDEX).write_text(text)
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        if not missing:
            shutil.copyfile(
                folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors"
            )

    return act


def replace(model: Callable[[], Any]) -> Damage:
    def act(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        model().save_pretrained(folder)

    return act


def _encode(architecture: type) -> Callable[[], Any]:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return lambda: architecture(BertConfig(vocab_size=60, **sizes))


def _scan() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 8}
    return Mamba2ForCausalLM(Mamba2Config(vocab_size=60, n_groups=1, **sizes))


_FIRST, _SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_QUANTIZED = "model.layers.1.mlp.down_proj"

MODELS: dict[str, Damage] = {
    "a path that does not exist": shutil.rmtree,
    "an empty folder": lose("*"),
    "no config": lose("config.json"),
    "a config that is not JSON": write("config.json", b"{'model_type'"),
    "a config that is not text": write("config.json", b"\xff\xfe{}"),
    "a config that is a list": write("config.json", b"[]"),
    "no model_type": configure(model_type=None),
    "no weights": lose(WEIGHTS),
    "a truncated file": cut(0.5),
    "a header cut off": cut(0.001),
    "an empty file": write(WEIGHTS, b""),
    "a file that is too long": lengthen,
    "a git-LFS pointer": write(WEIGHTS, LFS),
    "another kind of file": write(WEIGHTS, b"PK\3\4" * 50),
    "a header that is no JSON": write(WEIGHTS, b"\4\0\0\0\0\0\0\0oops"),
    "a pickle only": pickle,
    "integer codes": store_codes,
    "a format that nobody reads back": configure(quantization_config={"quant_method": "hqq"}),
    "a method that nobody knows": configure(quantization_config={"quant_method": "best8"}),
    "an adapter beside a model": write("adapter_config.json", b"{}"),
    "no tokenizer": lose("tokenizer*"),
    "an encoder-decoder": configure(is_encoder_decoder=True),
    "an unknown model_type": configure(model_type="lama"),
    "a config out of its mind": configure(hidden_size="wide"),
    "NaN in the weights": spoil(DOWN, float("nan")),
    "one infinity": spoil(DOWN, float("inf")),
    "one negative infinity": spoil("lm_head.weight", -float("inf")),
    "a missing tensor": drop(DOWN),
    "an unexpected tensor": put("odd", torch.zeros(3)),
    "a layer too many": configure(num_hidden_layers=2),
    "a layer too few": configure(num_hidden_layers=4),
    "another shape": put(DOWN, torch.zeros(32, 41)),
    "a tokenizer that is no JSON": write("tokenizer.json", b"{"),
    "code that comes with it": configure(model_type="odd", auto_map={"AutoConfig": "odd.OddConfig"}),
    "another task": configure(model_type="vit", architectures=["ViTModel"]),
    "a shard that lacks a tensor": shard({"weight_map": {"ghost": _FIRST}}),
    "a shard that is elsewhere": shard({"weight_map": {"ghost": "../other.safetensors"}}),
    "a shard that is missing": shard({"weight_map": {DOWN: _FIRST, "x": _SECOND}}, missing=True),
    "an index without a map": shard("{}"),
    "an index that is not JSON": shard("not JSON"),
    "an encoder": replace(_encode(BertModel)),
    "a masked language model": replace(_encode(BertForMaskedLM)),
    "no down-projection": replace(_scan),
}

# Which stored checkpoint of `tests/formats/data`, and what is done to it.
PACKED: dict[str, tuple[str, Damage]] = {
    "codes read as floats": ("W8A8", configure(quantization_config=None)),
    "packed layers without a config": ("W4A16", configure(quantization_config=None)),
    "packed codes lost": ("W4A16", drop(f"{_QUANTIZED}.weight_packed")),
    "scales lost": ("W8A8", drop(f"{_QUANTIZED}.weight_scale")),
    "scales lost of packed codes": ("W4A16", drop(f"{_QUANTIZED}.weight_scale")),
    "scales of another shape": ("W8A8", put(f"{_QUANTIZED}.weight_scale", torch.ones(7, 1))),
    "a scale that is no number": ("W8A8", spoil(f"{_QUANTIZED}.weight_scale", float("nan"))),
    "an embedding that is no number": ("W8A8", spoil("model.embed_tokens.weight", float("inf"))),
    "a layer too many in the file": ("W8A8", configure(num_hidden_layers=5)),
    "a file that is cut off": ("W8A8", cut(0.9)),
    "another method": ("FP8", configure(quantization_config={"quant_method": "best8"})),
}
