"""Models whose width suits every library's groups, probes, and skips where a library is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sw_audit.backends.method import Method, find_obstacle
from sw_audit.specimen.shipped import choices_path

WIDE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}


def require(method: Method) -> Method:
    """Skip a test where its library is not installed."""
    obstacle = find_obstacle(method)
    if obstacle is not None:
        pytest.skip(obstacle)
    return method


def write_few_choices(folder: Path, count: int = 6) -> str:
    """Write the first of the specimen's multiple-choice items into a file: all of them take long in many arms."""
    path = folder / "choices.jsonl"
    lines = choices_path().read_text(encoding="utf-8").splitlines()[:count]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def probe(module: torch.nn.Module, columns: int) -> torch.Tensor:
    """Return the effective weight of a projection without bias, [out, in]: its answers to one-hot inputs."""
    with torch.no_grad():
        answers: torch.Tensor = module(torch.eye(columns)[None])
    return answers[0].T
