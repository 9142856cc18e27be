from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.rotation import read_declared_rotation
from sw_audit.policy.model_policy import ModelPolicy


def read(folder: Path, **settings: Any) -> str | None:
    config = {"model_type": "llama", **({"quantization_config": settings} if settings else {})}
    (folder / "config.json").write_text(json.dumps(config))
    return read_declared_rotation(CheckpointFolder.require(ModelPolicy(source=str(folder))))


HADAMARD = {"R1": {"type": "hadamard", "apply": []}, "R2": {"type": "random-hadamard", "apply": []}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"quant_method": "compressed-tensors", "transform_config": {"config_groups": HADAMARD}},
            "`transform_config` in its quantization_config says so (hadamard, random-hadamard)",
        ),
        (
            {"quant_method": "gptq", "rotation": "hadamard"},
            "`rotation` in its quantization_config says so (hadamard)",
        ),
        (
            {"quant_method": "auto-round", "rotation_config": {"block_size": 32}},
            "`rotation_config` in its quantization_config says so",
        ),
        ({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {}}}, None),
        ({"quant_method": "gptq", "rotation": None}, None),
        ({}, None),
    ],
)
def test_a_rotation_that_the_files_declare_is_read(
    tmp_path: Path, settings: dict[str, Any], expected: str | None
) -> None:
    assert read(tmp_path, **settings) == expected
