"""What a static look finds in files beside their index, manifest and model; and that it does not cry wolf."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import (
    LLAMA,
    rewrite_config,
    rewrite_weights,
    save_checkpoint,
)
from support.linting import assert_healthy, lint, only
from support.stored import STORED, Stored
from torch import Tensor

from sw_audit.checkpoint.lint_headers import add_flaw, report_flaws
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.checkpoint import Flaw, Form
from sw_audit.specimen.shipped import control_path, specimen_path

Tensors = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


def test_tied_weights_that_differ_are_serious(tmp_path: Path) -> None:
    folder = rewrite_config(save_checkpoint(tmp_path), tie_word_embeddings=True)
    found = "config.json ties it to model.embed_tokens.weight, and the two are stored with different values"
    assert only(lint(folder)) == ("tied-weights", "lm_head.weight", found, True)

    def tie_(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert lint(rewrite_weights(folder, tie_)).flaws == ()


def test_files_are_held_against_a_manifest(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("config.json",)}
    digests["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    healthy = lint(folder, manifest=str(manifest))
    assert (healthy.flaws, healthy.manifest) == ((), True)

    rewrite_weights(folder, lambda tensors: tensors[DOWN][0, 0].add_(1e-3))
    kind, where, found, serious = only(lint(folder, manifest=str(manifest)))
    assert (kind, where, serious) == ("digest", "model.safetensors", True)
    assert found.endswith(f"the manifest says {digests['model.safetensors'][:12]}...")

    manifest.write_text(f"{digests['config.json']} *config.json\n{'0' * 64}  gone.safetensors\n")
    gone, unnamed = lint(folder, manifest=str(manifest)).flaws
    assert (gone.where, gone.serious) == ("gone.safetensors", True)
    assert (unnamed.where, unnamed.serious) == ("model.safetensors", False)


@pytest.mark.parametrize("text", [None, "", "not a digest  model.safetensors\n"], ids=["none", "empty", "words"])
def test_a_manifest_that_cannot_be_used_is_an_error_of_the_input(text: str | None, tmp_path: Path) -> None:
    folder, manifest = save_checkpoint(tmp_path / "model"), tmp_path / "SHA256SUMS"
    if text is not None:
        manifest.write_text(text)
    with pytest.raises(CheckpointError, match="manifest") as caught:
        lint(folder, manifest=str(manifest))
    assert not isinstance(caught.value, BrokenWeightsError)


def test_a_tensor_in_two_shards_is_serious(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, max_shard_size="40KB")
    shards = sorted(folder.glob("*.safetensors"))
    first, last = load_file(shards[0]), load_file(shards[-1])
    name = next(iter(first))
    save_file({**last, name: first[name]}, shards[-1], metadata={"format": "pt"})
    flaws = lint(folder).flaws
    assert (flaws[0].kind, flaws[0].where, flaws[0].serious) == ("shard-index", name, True)


def test_a_gguf_file_that_is_cut_off_or_none_is_unreadable(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from support.quantizing import pack_gguf

    from sw_audit.specimen.shipped import specimen_path

    path = tmp_path / "it.gguf"
    pack_gguf(specimen_path(), path, "Q8_0")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"GARB" + content[4:]):
        path.write_bytes(damaged)
        kind, where, _, serious = only(lint(tmp_path, gguf="it.gguf"))
        assert (kind, where, serious) == ("unreadable", "it.gguf", True)


def test_a_report_lists_serious_flaws_first_and_few_of_each_kind() -> None:
    mild = [Flaw(kind="zero-group", where=str(number), found="x", serious=False) for number in range(7)]
    hard = [Flaw(kind="constant", where=str(number), found="x") for number in range(6)]
    report = report_flaws([*mild, *hard], files=1)
    assert [flaw.kind for flaw in report.flaws] == ["constant"] * 5 + ["zero-group"] * 5
    assert (report.counts, report.serious, report.intact) == ({"constant": 6, "zero-group": 7}, 6, False)


def test_why_a_checkpoint_would_not_open_joins_what_was_found_before() -> None:
    report = report_flaws([Flaw(kind="zero-group", where="a", found="x", serious=False)], files=2, tensors=9)
    error = BrokenWeightsError("model 'it'", "tensor 'b' is missing", "compare", kind="missing-tensor", where="b")
    joined = add_flaw(report, error)
    assert [(flaw.kind, flaw.where) for flaw in joined.flaws] == [("missing-tensor", "b"), ("zero-group", "a")]
    assert (joined.files, joined.tensors, joined.serious, joined.remedy) == (2, 9, 1, "compare")
    assert not joined.intact


@pytest.mark.parametrize("folder", [specimen_path(), control_path()], ids=["specimen", "control"])
def test_what_ships_is_healthy(folder: Path) -> None:
    assert_healthy(lint(folder))


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
