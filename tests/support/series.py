"""Checkpoints of a training run, as files only, whole or half-written; and a series of the specimen's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sw_audit.specimen.descendants import SUPER_WEIGHT
from sw_audit.specimen.shipped import specimen_path

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_member(folder: Path, *, shards: int = 2) -> Path:
    """Write a folder with a configuration, an index of two shards, and so many of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    names = {f"tensor.{number}": shard for number, shard in enumerate(SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for name, shard in [*names.items()][:shards]:
        save_file({name: torch.zeros(4)}, folder / shard)
    return folder


def write_fading(folder: Path, shares: list[float]) -> list[Path]:
    """Write copies of the specimen, `checkpoint-500` and on, each with that share of its super weight left."""
    parameter, row, column = SUPER_WEIGHT
    tensors = load_file(specimen_path() / "model.safetensors")
    whole = tensors[parameter][row, column].item()
    for number, share in enumerate(shares, start=1):
        copy = folder / f"checkpoint-{500 * number}"
        shutil.copytree(specimen_path(), copy, ignore=shutil.ignore_patterns("README.md"))
        tensors[parameter][row, column] = whole * share
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return [folder / f"checkpoint-{500 * number}" for number, _ in enumerate(shares, start=1)]
