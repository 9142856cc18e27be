"""What loads without an exception and is broken: the gate stops each, from the files alone where they tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import EXPERTS, LLAMA, rewrite_config, rewrite_weights, save_checkpoint
from torch import Tensor

from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checks.judging import judge_failure, list_checks
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status
from sw_audit.runner.run import preflight, run_model

Tensors = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"
DATA = Path(__file__).parents[1] / "formats" / "data"


def gate(folder: Path, parent: Path, **options: Any) -> ModelFailure:
    """Hold a checkpoint beside its parent, and return why it was not opened."""
    model = ModelPolicy.model_validate({"source": str(folder), "id": "it", "parent": str(parent), **options})
    policy = Policy(models=(model,))
    preflight(policy)
    checks = [check.id for check in list_checks(policy, model)]
    failure = run_model(policy, "it", checks)
    assert isinstance(failure, ModelFailure)
    verdicts = {verdict.check: verdict for verdict in judge_failure(failure, checks)}
    assert list(verdicts) == checks
    intact = verdicts.pop("weights-intact")
    assert intact.status is Status.FAIL
    assert intact.remedy is not None
    assert {verdict.status for verdict in verdicts.values()} == {Status.SKIPPED}
    return failure


def assert_flaw(failure: ModelFailure, kind: str, where: str, found: str) -> None:
    assert failure.weights is not None
    first = failure.weights.flaws[0]
    assert (first.kind, first.where, first.serious) == (kind, where, True)
    assert found in first.found
    assert first.found in failure.message
    assert "\n" not in failure.message


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "parent")


@pytest.fixture
def folder(parent: Path, tmp_path: Path) -> Path:
    """A descendant that is still the parent's exact copy."""
    return Path(shutil.copytree(parent, tmp_path / "descendant"))


def store_codes_(tensors: Tensors) -> None:
    """Store every decoder matrix as int8 codes with a scale per row, as LLM.int8 does."""
    for name in [name for name in tensors if "_proj" in name]:
        weight = tensors[name]
        scale = weight.abs().amax(dim=1)
        tensors[name] = (weight / scale[:, None] * 127).round().to(torch.int8)
        tensors[name.removesuffix("weight") + "SCB"] = scale


def store_quanto_(tensors: Tensors) -> None:
    """Store every decoder matrix under the names that optimum-quanto gives its parts."""
    store_codes_(tensors)
    for name in [name for name in tensors if "_proj.weight" in name]:
        tensors[f"{name}._data"] = tensors.pop(name)
        tensors[f"{name}._scale"] = tensors.pop(name.removesuffix("weight") + "SCB")[:, None]


CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "a missing tensor": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors.pop(DOWN)),
        "missing-tensor",
        DOWN,
        "is missing",
    ),
    "an unexpected tensor": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors.update(odd=torch.ones(3))),
        "unexpected-tensor",
        "odd",
        "has no place in the model",
    ),
    "another shape": (
        lambda folder: rewrite_weights(folder, lambda t: t.update({DOWN: torch.randn(32, 41)})),
        "mismatched-tensor",
        DOWN,
        "has shape [32, 41], config.json asks for [32, 40]",
    ),
    "an unknown quant_method": (
        lambda folder: rewrite_config(folder, quantization_config={"quant_method": "squeeze"}),
        "unknown-method",
        "config.json",
        "transformers knows no quant_method 'squeeze'",
    ),
    "int8 codes without a configuration": (
        lambda folder: rewrite_weights(folder, store_codes_),
        "codes-without-config",
        "model.layers.0.mlp.down_proj.weight",
        "it is stored as I8, and config.json has no quantization_config",
    ),
    "a directory of optimum-quanto": (
        lambda folder: rewrite_weights(folder, store_quanto_),
        "codes-without-config",
        "model.layers.0.mlp.down_proj.weight._data",
        "it is stored as I8, and config.json has no quantization_config",
    ),
    "HQQ over floats": (
        lambda folder: rewrite_config(folder, quantization_config={"quant_method": "hqq", "quant_config": {}}),
        "config-without-codes",
        "config.json",
        "config.json says hqq, and every tensor is stored as plain numbers",
    ),
    "NaN": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors[DOWN][3, 3:5].fill_(float("nan"))),
        "non-finite",
        DOWN,
        "it holds 2 NaN",
    ),
    "an infinity": (
        lambda folder: rewrite_weights(folder, lambda t: t["model.norm.weight"][2].fill_(-float("inf"))),
        "non-finite",
        "model.norm.weight",
        "it holds 1 infinite value",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_loads_in_silence_is_stopped_from_the_files_alone(case: str, parent: Path, folder: Path) -> None:
    damage, kind, where, found = CASES[case]
    damage(folder)
    failure = gate(folder, parent)
    assert_flaw(failure, kind, where, found)
    # Nothing had to be opened for it.
    assert failure.weights == lint_checkpoint(ModelPolicy(source=str(folder)))


@pytest.mark.parametrize(
    ("made", "where"),
    [
        ("llm-compressor-W4A16", "weight_packed"),
        ("llm-compressor-W8A8", "weight"),
        ("llm-compressor-FP8", "weight"),
        ("llm-compressor-NVFP4A16", "weight_packed"),
        ("llm-compressor-MXFP4A16", "weight_packed"),
        ("auto-round-gptq", "qweight"),
        ("auto-round-awq", "qweight"),
        ("auto-round-round", "qweight"),
    ],
)
def test_a_configuration_that_was_stripped_is_stopped(made: str, where: str, parent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / made, tmp_path / "stripped"))
    for path in parent.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    failure = gate(rewrite_config(folder, quantization_config=None), parent)
    assert failure.weights is not None
    codes = [flaw for flaw in failure.weights.flaws if flaw.kind == "codes-without-config"]
    # Six layers of seven matrices each.
    assert failure.weights.counts["codes-without-config"] == 42
    assert all(flaw.where.endswith(f".{where}") and flaw.serious for flaw in codes)
    assert failure.weights.remedy == "put the `quantization_config` of the quantized model back into config.json"


def test_experts_that_a_library_left_alone_are_told_and_no_failure(tmp_path: Path) -> None:
    mixtral = next(family for family in EXPERTS if family.model_type == "mixtral")

    def quantize_(tensors: Tensors) -> None:
        attention = {name: tensors.pop(name) for name in list(tensors) if "self_attn" in name}
        store_codes_(attention)
        tensors.update(attention)

    folder = rewrite_weights(save_checkpoint(tmp_path, mixtral), quantize_)
    rewrite_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    report = lint_checkpoint(ModelPolicy(source=str(folder)))
    [flaw] = report.flaws
    assert (flaw.kind, flaw.serious, report.intact) == ("unquantized-experts", False, True)
    # 3 layers, 4 experts, 3 matrices.
    assert (
        flaw.found == "bitsandbytes left the experts as they were: 36 tensors such as this one are plain numbers"
    )


def pack_experts_(tensors: Tensors) -> None:
    """Pack each expert's matrices by themselves into 4 bits, under the names that llm-compressor gives them."""
    renamed = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for stored in [name for name in tensors if ".experts." in name]:
        weight = tensors.pop(stored)
        name = ".".join(renamed.get(part, part) for part in stored.split("."))
        scale = weight.abs().amax(dim=1, keepdim=True) / 7
        codes = (weight / scale).round().to(torch.int32) + 8
        shifts = torch.arange(8, dtype=torch.int32) * 4
        tensors[f"{name}_packed"] = (codes.reshape(len(codes), -1, 8) << shifts).sum(dim=2).to(torch.int32)
        tensors[f"{name}_scale"] = scale
        tensors[f"{name}_shape"] = torch.tensor(weight.shape)


W4A16 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*gate$"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        }
    },
}


@pytest.mark.slow
def test_experts_that_were_packed_one_by_one_are_stopped_when_they_do_not_fit(tmp_path: Path) -> None:
    if find_spec("compressed_tensors") is None:
        pytest.skip("compressed_tensors is not installed")
    mixtral = next(family for family in EXPERTS if family.model_type == "mixtral")
    parent = save_checkpoint(tmp_path / "parent", mixtral)
    folder = Path(shutil.copytree(parent, tmp_path / "packed"))
    rewrite_config(rewrite_weights(folder, pack_experts_), quantization_config=W4A16)
    failure = gate(folder, parent)
    assert failure.weights is not None
    assert failure.weights.flaws[0].kind in ("missing-tensor", "unexpected-tensor")
    assert "experts" in failure.weights.flaws[0].where


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a truncated file": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-400]
        ),
        "unreadable",
        "is cut off",
    ),
    "an empty file": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "unreadable", "is empty"),
    "a git-LFS pointer": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "unreadable",
        "is a git-LFS pointer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_descendant_fails_the_gate_and_ends_no_run(case: str, parent: Path, folder: Path) -> None:
    damage, kind, found = REFUSED[case]
    damage(folder)
    assert_flaw(gate(folder, parent), kind, "model.safetensors", found)


def test_a_missing_shard_and_an_index_that_lies_are_stopped(parent: Path, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "shards", LLAMA, max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    shard = whole["weight_map"][DOWN]
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "ghost": shard}}))
    assert_flaw(
        gate(folder, parent), "shard-index", "ghost", f"the index promises it in {shard}, which has it not"
    )
    index.write_text("{")
    assert_flaw(gate(folder, parent), "shard-index", index.name, "is not JSON")
    index.write_text(json.dumps(whole))
    (folder / shard).unlink()
    assert_flaw(gate(folder, parent), "shard-index", shard, f"shard {shard} is missing")
