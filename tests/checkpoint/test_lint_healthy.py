"""The static look does not cry wolf: what is healthy has no serious flaw, whatever its family and format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import (
    DEEPSEEK,
    DENSE,
    EXPERTS,
    LLAMA,
    VISION,
    Family,
    rewrite_config,
    rewrite_weights,
    save_checkpoint,
)
from support.stored import STORED, Stored

from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.export import Form
from sw_audit.record.weights import WeightsReport
from sw_audit.specimen.shipped import control_path, specimen_path

DOWN = "model.layers.1.mlp.down_proj.weight"


def lint(folder: Path, **options: object) -> WeightsReport:
    return lint_checkpoint(ModelPolicy.model_validate({"source": str(folder), **options}))


def assert_healthy(report: WeightsReport, *, mild: int = 0) -> None:
    assert [flaw for flaw in report.flaws if flaw.serious] == []
    assert report.intact
    assert report.remedy is None
    assert len(report.flaws) == mild
    assert report.scanned == report.tensors > 0


@pytest.mark.parametrize("folder", [specimen_path(), control_path()], ids=["specimen", "control"])
def test_what_ships_is_healthy(folder: Path) -> None:
    assert_healthy(lint(folder))


@pytest.mark.parametrize("family", [*DENSE, *EXPERTS, *DEEPSEEK, *VISION], ids=str)
def test_a_family_as_it_is_saved_is_healthy(family: Family, tmp_path: Path) -> None:
    assert_healthy(lint(save_checkpoint(tmp_path, family)))


@pytest.mark.slow
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_a_format_as_its_own_library_stores_it_is_healthy(stored: Stored, tmp_path: Path) -> None:
    assert_healthy(lint(stored.make(tmp_path / "model")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_healthy(dtype: str, tmp_path: Path) -> None:
    folder = rewrite_config(save_checkpoint(tmp_path), dtype=dtype)

    def narrow_(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()})

    assert_healthy(lint(rewrite_weights(folder, narrow_)))


def test_shards_with_their_index_are_healthy(tmp_path: Path) -> None:
    report = lint(save_checkpoint(tmp_path, max_shard_size="40KB"))
    assert_healthy(report)
    assert report.files > 2


def test_a_pickle_that_is_allowed_is_healthy(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_healthy(lint(folder, allow_pickle=True))


WIDE = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 32}


def test_structured_pruning_is_told_and_fails_nothing(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, LLAMA, **WIDE)

    def prune_(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN][:, 64:256] = 0
        tensors[DOWN][3] = 0

    report = lint(rewrite_weights(folder, prune_))
    assert_healthy(report, mild=1)
    # 3 of 8 runs of 64 in each of 128 rows, and the other 5 of one row.
    assert report.flaws[0].found == "389 of 1024 runs of 64 weights along the input are zero"


def test_nine_weights_in_ten_pruned_by_size_fail_nothing(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, LLAMA, **WIDE)

    def prune_(tensors: dict[str, torch.Tensor]) -> None:
        for name in [one for one in tensors if "proj" in one]:
            large = tensors[name].abs() >= tensors[name].abs().flatten().quantile(0.95)
            tensors[name] *= large

    report = lint(rewrite_weights(folder, prune_))
    assert report.intact
    assert report.counts["zero-group"] > 0


@pytest.mark.parametrize("recipe", ["int4/tensor", "int4/64x64", "int8/tensor", "int3/row"])
def test_coarse_rounding_that_loses_most_weights_is_for_the_quality_checks(recipe: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, LLAMA, **WIDE)

    def round_(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN][5, 7] = 3.24  # an outlier that spoils the scale of its block
        tensors[DOWN] = round_to_nearest(tensors[DOWN], parse_recipe(recipe))

    report = lint(rewrite_weights(folder, round_))
    assert report.intact


def test_rows_of_padding_in_an_embedding_are_nothing_unusual(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, LLAMA, **WIDE)
    assert_healthy(
        lint(rewrite_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"][50:].zero_()))
    )


@pytest.mark.parametrize("form", ["dense", "compressed-tensors"])
def test_what_sw_audit_itself_stores_is_healthy(form: Form, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source", LLAMA, **WIDE)
    order = ExportOrder(parse_recipe("int4/group64/symmetric"), form)
    export_checkpoint(open_checkpoint(ModelPolicy(source=str(source))), order, tmp_path / "out", source)
    assert_healthy(lint(tmp_path / "out"))
