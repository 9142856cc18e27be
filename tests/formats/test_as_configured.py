"""What is stored is held against what the configuration says of it, in every format and both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from formats.conftest import Opened
from support.checkpoints import Tensors, rewrite_config, rewrite_weights
from support.linting import lint
from support.stored import DOWN, make

from sw_audit.checkpoint.formats.format import list_formats
from sw_audit.checkpoint.formats.patterns import find_left_alone
from sw_audit.checkpoint.headers import TensorHeader
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.quantization import describe_quantization
from sw_audit.policy.policy import ModelPolicy


def configure(folder: Path, change: dict[str, Any]) -> Path:
    """Change what config.json says of quantization: keys of the one group's weights where there is one."""
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    groups = settings.get("config_groups")
    for key, value in change.items():
        (groups["group_0"]["weights"] if groups and key != "ignore" else settings)[key] = value
    return rewrite_config(folder, quantization_config=settings)


def test_what_is_sound_contradicts_nothing(opened: Opened) -> None:
    assert [flaw for flaw in lint(opened.folder).flaws if flaw.serious] == []
    report = describe_quantization(opened.checkpoint, ModelPolicy(source=str(opened.folder)))
    assert report is None or report.contradictions == ()


# A sound checkpoint, what its configuration says instead, where that is seen, and what is said.
OTHERWISE: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "int4 ignored": (
        "compressed-tensors-w4a16",
        {"ignore": ["lm_head", DOWN]},
        f"{DOWN}.weight_packed",
        "leaves it",
    ),
    "int8 ignored": (
        "compressed-tensors-w8a8",
        {"ignore": ["re:.*layers.1.mlp.down_proj"]},
        f"{DOWN}.weight",
        "ignore 're:.*layers.1.mlp.down_proj' of config.json leaves it as it is, and it is stored as codes",
    ),
    "fp8 ignored": (
        "fp8",
        {"modules_to_not_convert": ["down_proj"]},
        "model.layers.0.mlp.down_proj.weight",
        "leaves",
    ),
    "gptq left out": ("gptq", {"dynamic": {"-:.*layers.1.mlp.down": {}}}, f"{DOWN}.qweight", "leaves it as it is"),
    "awq left out": ("awq", {"modules_to_not_convert": [DOWN]}, f"{DOWN}.qweight", "leaves it as it is"),
    "int4 groups": (
        "compressed-tensors-w4a16",
        {"group_size": 64},
        f"{DOWN}.weight_scale",
        "its shape is [64, 6], and 4 bits by group of 64 makes [64, 3]",
    ),
    "int4 rows": ("compressed-tensors-w4a16", {"strategy": "channel"}, f"{DOWN}.weight_scale", "makes [64, 1]"),
    "int4 zeros": ("compressed-tensors-w4a16", {"symmetric": False}, f"{DOWN}.weight_zero_point", "are missing"),
    "int4 bits": ("compressed-tensors-w4a16", {"num_bits": 8}, f"{DOWN}.weight_scale", "makes [64, 3]"),
    "int8 kind": (
        "compressed-tensors-w8a8",
        {"type": "float"},
        f"{DOWN}.weight",
        "stored as I8, and config.json says",
    ),
    "fp8 kind": (
        "compressed-tensors-fp8",
        {"type": "int"},
        f"{DOWN}.weight",
        "stored as F8_E4M3, and config.json",
    ),
    "nvfp4 groups": ("compressed-tensors-nvfp4a16", {"group_size": 32}, f"{DOWN}.weight_scale", "makes [64, 6]"),
    "fp8 blocks": ("fp8", {"weight_block_size": [64, 64]}, f"{DOWN}.weight_scale_inv", "makes [1, 3]"),
    "gptq groups": ("gptq", {"group_size": 64}, f"{DOWN}.qweight", "do not go with bits = 4, group_size = 64"),
    "nf4 kind": (
        "bitsandbytes-nf4",
        {"bnb_4bit_quant_type": "fp4"},
        f"{DOWN}.weight",
        "nf4, and config.json says fp4",
    ),
    "nf4 scales": ("bitsandbytes-nf4", {"bnb_4bit_use_double_quant": True}, f"{DOWN}.weight", "and they are not"),
    "nf4 double": (
        "bitsandbytes-nf4-double",
        {"bnb_4bit_use_double_quant": False},
        f"{DOWN}.weight",
        "they are not",
    ),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_what_is_stored_otherwise_than_configured_is_serious(case: str, tmp_path: Path) -> None:
    name, change, where, found = OTHERWISE[case]
    report = lint(configure(make(name, tmp_path), change))
    assert not report.intact
    listed = [flaw for flaw in report.flaws if found in flaw.found]
    assert listed
    if where.startswith(DOWN) and report.serious == 1:
        assert listed[0].where == where


def test_zero_points_that_are_lost_or_of_another_shape_are_serious(tmp_path: Path) -> None:
    folder = make("awq", tmp_path)

    def halve_(tensors: Tensors) -> None:
        tensors[f"{DOWN}.qzeros"] = tensors[f"{DOWN}.qzeros"][:, ::2].contiguous()

    (flaw,) = lint(rewrite_weights(folder, halve_)).flaws
    assert (flaw.where, flaw.found) == (
        f"{DOWN}.qzeros",
        "its shape is [6, 4], and bits = 4, group_size = 32 makes [6, 8]",
    )
    (flaw,) = lint(rewrite_weights(folder, lambda tensors: tensors.pop(f"{DOWN}.qzeros"))).flaws
    assert (flaw.where, flaw.kind) == (f"{DOWN}.qzeros", "missing-tensor")


def hold(method: str, settings: dict[str, Any], shapes: dict[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Hold headers of a method that is not installed here against settings."""
    [known] = [known for known in list_formats() if known.method == method]
    headers = {name: TensorHeader(dtype, shape, "model.safetensors") for name, (dtype, shape) in shapes.items()}
    return [flaw.found for flaw in known.lint_shapes(settings, headers)]


def test_torchao_is_held_against_its_granularity_and_dtype() -> None:
    def ask(**data: Any) -> dict[str, Any]:
        return {"quant_type": {"default": {"_data": data, "_type": "IntxWeightOnlyConfig"}}}

    stored = {"m._weight_qdata": ("I8", (64, 192)), "m._weight_scale": ("F32", (64, 6))}
    four = {"granularity": {"_data": {"group_size": 32}}, "weight_dtype": {"_data": "int4"}}
    assert hold("torchao", ask(**four), stored) == []
    assert hold("torchao", ask(granularity={"_data": {"group_size": 64}}), stored) == [
        "its shape is [64, 6], and group_size = 64 makes [64, 3]"
    ]
    assert "says float8_e4m3fn" in hold("torchao", ask(weight_dtype={"_data": "float8_e4m3fn"}), stored)[0]
    assert "zero points are missing" in hold("torchao", ask(mapping_type={"_data": "ASYMMETRIC"}), stored)[0]


def test_experts_are_held_too_apart_and_fused() -> None:
    apart = "model.layers.0.mlp.experts.3.down_proj"
    settings = {"config_groups": {"a": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}}}
    stored = {f"{apart}.weight_packed": ("I32", (64, 24)), f"{apart}.weight_scale": ("F32", (64, 3))}
    assert hold("compressed-tensors", settings, stored) == [
        "its shape is [64, 3], and 4 bits by group of 32 makes [64, 6]"
    ]
    fused = {"e.down_proj_blocks": ("U8", (4, 64, 6, 16)), "e.down_proj_scales": ("U8", (4, 64, 3))}
    assert hold("mxfp4", {}, fused) == ["its shape is [4, 64, 3], and one scale a block makes [4, 64, 6]"]


@pytest.mark.parametrize("odd", [{"config_groups": [1]}, {"config_groups": {"a": 3}}, {"ignore": {"a": 1}}])
def test_settings_of_another_kind_are_one_flaw_and_no_traceback(odd: dict[str, Any], tmp_path: Path) -> None:
    folder = make("compressed-tensors-w4a16", tmp_path)
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    report = lint(rewrite_config(folder, quantization_config={**settings, **odd}))
    assert report.intact or "is not what compressed-tensors writes" in report.flaws[0].found


def test_where_a_pattern_may_be_a_class_another_name_is_taken_as_a_whole() -> None:
    [known] = [known for known in list_formats() if known.method == "compressed-tensors"]
    patterns = known.list_patterns({"ignore": ["gate", "re:.*down_proj"]})
    assert find_left_alone(patterns, "model.layers.0.mlp.gate") is None
    assert find_left_alone(patterns, "model.layers.0.mlp.down_proj") is not None


def test_a_gguf_file_that_is_called_by_another_type_is_told_by_its_open_model(tmp_path: Path) -> None:
    folder = make("gguf-q4_0", tmp_path)
    (folder / "specimen.gguf").rename(folder / "specimen.Q8_0.gguf")
    policy = ModelPolicy(source=str(folder))
    report = describe_quantization(open_checkpoint(policy), policy)
    assert report is not None
    (found,) = report.contradictions
    assert (found.where, found.said, found.serious) == ("specimen.Q8_0.gguf", "its name says Q8_0", True)
    assert found.stored == "100 % of the weights in its layers are Q4_0"
