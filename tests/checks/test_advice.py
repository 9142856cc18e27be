from __future__ import annotations

import ast
import re
from typing import Any

import pytest

from sw_audit.checks.advice import LeftOut, paste_ignore, write_ignore

MODULES = ("model.layers.1.mlp.down_proj", "model.layers.3.mlp.experts")
SINGLE = LeftOut(MODULES)
GROUPS = LeftOut(kinds=("mlp.down_proj",), layers=("model.layers.1",))
OTHERS = ("model.layers.11.mlp.down_proj", "model.layers.1.mlp.up_proj", "model.layers.3.self_attn.o_proj")


def read_setting(tool: str, left_out: LeftOut = SINGLE) -> Any:
    """Read the value of the setting that is pasted for a tool, as Python would."""
    [text] = [one.text for one in paste_ignore(left_out) if one.where.startswith(tool)]
    [statement] = ast.parse(text).body
    assert isinstance(statement, ast.Assign)
    return ast.literal_eval(statement.value)


def test_without_a_module_there_is_nothing_to_paste() -> None:
    assert paste_ignore(LeftOut()) == ()


def test_names_are_whole_and_the_head_stays_on_the_list() -> None:
    assert read_setting("llm-compressor") == ["lm_head", *MODULES]
    assert read_setting("bitsandbytes") == ["lm_head", *MODULES]


def test_a_pattern_matches_its_module_from_end_to_end() -> None:
    patterns = [name.removeprefix("-:") for name in read_setting("GPTQModel")]
    for name in (*MODULES, *OTHERS, MODULES[0].replace(".", "_"), f"{MODULES[0]}.base"):
        assert any(re.match(pattern, name) for pattern in patterns) == (name in MODULES)


@pytest.fixture
def grouped() -> dict[str, bool]:
    """Whether each module is in every `mlp.down_proj` or in layer 1."""
    return {
        "model.layers.1.mlp.up_proj": True,
        "model.layers.1.self_attn.q_proj": True,
        "model.layers.11.mlp.down_proj": True,
        "model.layers.11.mlp.up_proj": False,
        "model.layers.3.block_mlp.down_proj": False,
        "model.layers.3.mlp.down_proj_2": False,
    }


def test_kinds_and_layers_are_left_out_by_a_pattern(grouped: dict[str, bool]) -> None:
    patterns = [name.removeprefix("-:") for name in read_setting("GPTQModel", GROUPS)]
    expressions = [name.removeprefix("re:") for name in read_setting("llm-compressor", GROUPS)[1:]]
    for name, left_out in grouped.items():
        for listed in (patterns, expressions):
            assert any(re.match(pattern, name) for pattern in listed) == left_out, name


def test_transformers_leaves_kinds_and_layers_out(grouped: dict[str, bool]) -> None:
    utils = pytest.importorskip("transformers.quantizers.quantizers_utils", reason="comes with transformers")
    skipped = read_setting("bitsandbytes", GROUPS)
    assert {name: not utils.should_convert_module(name, skipped) for name in grouped} == grouped


def test_compressed_tensors_leaves_kinds_and_layers_out(grouped: dict[str, bool]) -> None:
    match = pytest.importorskip("compressed_tensors.utils.match", reason="pip install compressed-tensors")
    torch = pytest.importorskip("torch")
    ignored = read_setting("llm-compressor", GROUPS)
    linear = torch.nn.Linear(1, 1)
    assert {name: not match.is_match(name, linear, "Linear", ignored) for name in grouped} == grouped


def test_transformers_leaves_out_what_is_pasted_for_bitsandbytes() -> None:
    utils = pytest.importorskip("transformers.quantizers.quantizers_utils", reason="comes with transformers")
    skipped = read_setting("bitsandbytes")
    for name in (*MODULES, *OTHERS, "lm_head"):
        assert utils.should_convert_module(name, skipped) == (name in OTHERS)


def test_compressed_tensors_leaves_out_what_is_pasted_for_llm_compressor() -> None:
    match = pytest.importorskip("compressed_tensors.utils.match", reason="pip install compressed-tensors")
    torch = pytest.importorskip("torch")
    ignored = read_setting("llm-compressor")
    for name in (*MODULES, *OTHERS, "lm_head"):
        assert match.is_match(name, torch.nn.Linear(1, 1), "Linear", ignored) == (name in OTHERS)


@pytest.mark.slow
def test_gptqmodel_leaves_out_what_is_pasted_for_it() -> None:
    config = pytest.importorskip("gptqmodel.quantization.config", reason="pip install gptqmodel")
    for name in (*MODULES, *OTHERS):
        left_out = config.dynamic_get(read_setting("GPTQModel"), name) is False
        assert left_out == (name in MODULES)


def test_the_words_hold_every_line() -> None:
    words = write_ignore(SINGLE)
    assert words.startswith(f"leave {MODULES[0]}, {MODULES[1]} out of quantization")
    assert all(f"`{one.text}`" in words for one in paste_ignore(SINGLE))
