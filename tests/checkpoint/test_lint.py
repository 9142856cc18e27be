"""What a static look finds in files beside their index, manifest and model; and that it does not cry wolf."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import EXPERTS, LLAMA, Tensors, rewrite_config, rewrite_weights, save_checkpoint
from support.linting import assert_healthy, lint, only
from support.stored import DATA

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.lint import count_inside, cut_blocks, lint_checkpoint
from sw_audit.checkpoint.lint_headers import add_flaw, report_flaws
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.checkpoint import Flaw, Form
from sw_audit.specimen.shipped import control_path, specimen_path

Change = Callable[[Tensors], object]
DOWN = "model.layers.1.mlp.down_proj.weight"
MODULE = DOWN.removesuffix(".weight")
WIDE = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 32}


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A Llama whose down-projections are 128 by 512: eight runs of 64 in a row."""
    return save_checkpoint(tmp_path / "wide", LLAMA, **WIDE)


def test_tied_weights_that_differ_are_serious(tmp_path: Path) -> None:
    folder = rewrite_config(save_checkpoint(tmp_path), tie_word_embeddings=True)
    found = "config.json ties it to model.embed_tokens.weight, and the two are stored with different values"
    assert only(lint(folder)) == ("tied-weights", "lm_head.weight", found, True)

    def tie_(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert lint(rewrite_weights(folder, tie_)).flaws == ()


def test_progress_is_told_after_each_tensor(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    total = len(load_file(folder / "model.safetensors"))
    told: list[tuple[str, int, int]] = []
    lint_checkpoint(ModelPolicy(source=str(folder)), lambda *step: told.append(step))
    assert told == [("inspecting", done + 1, total) for done in range(total)]


def test_files_are_held_against_a_manifest(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    names = ("config.json", "model.safetensors")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
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


def test_structured_pruning_is_told_and_fails_nothing(wide: Path) -> None:
    def prune_(tensors: Tensors) -> None:
        tensors[DOWN][:, 64:256] = 0
        tensors[DOWN][3] = 0

    report = lint(rewrite_weights(wide, prune_))
    assert_healthy(report, mild=1)
    # 3 of 8 runs of 64 in each of 128 rows, and the other 5 of one row.
    assert report.flaws[0].found == "389 of 1024 runs of 64 weights along the input are zero"


def test_nine_weights_in_ten_pruned_by_size_fail_nothing(wide: Path) -> None:
    def prune_(tensors: Tensors) -> None:
        for name in [name for name in tensors if "proj" in name]:
            large = tensors[name].abs() >= tensors[name].abs().flatten().quantile(0.95)
            tensors[name] *= large

    report = lint(rewrite_weights(wide, prune_))
    assert report.intact
    assert report.counts["zero-group"] > 0


@pytest.mark.parametrize("recipe", ["int4/tensor", "int4/64x64", "int8/tensor", "int3/row"])
def test_coarse_rounding_that_loses_most_weights_is_for_the_quality_checks(recipe: str, wide: Path) -> None:
    def round_(tensors: Tensors) -> None:
        tensors[DOWN][5, 7] = 3.24  # an outlier that spoils the scale of its block
        tensors[DOWN] = round_to_nearest(tensors[DOWN], parse_recipe(recipe))

    assert lint(rewrite_weights(wide, round_)).intact


def test_rows_of_padding_in_an_embedding_are_nothing_unusual(wide: Path) -> None:
    padded = rewrite_weights(wide, lambda tensors: tensors["model.embed_tokens.weight"][50:].zero_())
    assert_healthy(lint(padded))


@pytest.mark.parametrize("form", ["dense", "compressed-tensors"])
def test_what_sw_audit_itself_stores_is_healthy(form: Form, wide: Path, tmp_path: Path) -> None:
    order = ExportOrder(parse_recipe("int4/group64/symmetric"), form)
    policy = ModelPolicy(source=str(wide))
    export_checkpoint(open_checkpoint(policy), order, tmp_path / "out", CheckpointFolder.require(policy))
    assert_healthy(lint(tmp_path / "out"))


# What is done to a Llama whose down-projections are eight runs of 64 in a row; the flaw, or that it is intact.
VALUES: dict[str, tuple[Change, str, str]] = {
    "zeros": (lambda tensors: tensors[DOWN].fill_(0.0), "constant", "it is 0 in every place"),
    "one value": (lambda tensors: tensors[DOWN].fill_(0.5), "constant", "it is 0.5 in every place"),
    "a group of zeros": (
        lambda tensors: tensors[DOWN][17, 128:192].zero_(),
        "zero-group",
        "1 of 1024 runs of 64 weights along the input are zero, 1 of them in rows and columns that are not",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_matrix_without_information_is_serious(case: str, wide: Path) -> None:
    change_, kind, found = VALUES[case]
    report = lint(rewrite_weights(wide, change_))
    assert only(report) == (kind, DOWN, found, True)
    assert report.remedy is not None


def test_one_value_that_differs_and_a_group_one_short_of_zeros_are_nothing(wide: Path) -> None:
    assert lint(rewrite_weights(wide, lambda tensors: tensors[DOWN][17, 128:191].zero_())).flaws == ()

    def spare_(tensors: Tensors) -> None:
        tensors[DOWN].fill_(0.5)
        tensors[DOWN][100, 300] = 0.25

    assert lint(rewrite_weights(wide, spare_)).intact


def test_an_expert_of_zeros_in_a_stack_is_serious(tmp_path: Path) -> None:
    gpt_oss = next(family for family in EXPERTS if family.model_type == "gpt_oss")
    name = "model.layers.1.mlp.experts.down_proj"
    folder = rewrite_weights(save_checkpoint(tmp_path, gpt_oss), lambda tensors: tensors[name][2].zero_())
    assert only(lint(folder)) == ("constant", name, "1 of its 4 experts are 0 in every place", True)


def test_blocks_inside_are_those_in_no_blank_row_or_column() -> None:
    blank = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1]], dtype=torch.bool)
    # The first row and the first column are blank as a whole; what is left is the last corner.
    assert count_inside(blank) == 1


def test_codes_are_cut_into_the_blocks_of_their_scales() -> None:
    # GPTQ: eight inputs in a word, groups of 16 inputs, three outputs.
    codes = torch.arange(4 * 3, dtype=torch.int32).reshape(4, 3)
    blocks = cut_blocks(codes, torch.ones(2, 3))
    assert blocks is not None
    assert blocks.shape == (2, 3, 8)
    # The block of the second group and the last output: words 8 and 11, lowest byte first.
    assert blocks[1, 2].tolist() == [8, 0, 0, 0, 11, 0, 0, 0]
    # A scale for each row; one for each block of a flat tensor; experts, stacked; what does not fit.
    assert cut_blocks(codes, torch.ones(4)).shape == (4, 1, 12)  # type: ignore[union-attr]
    assert cut_blocks(codes.reshape(12, 1), torch.ones(3)).shape == (3, 1, 16)  # type: ignore[union-attr]
    fours = torch.zeros(2, 5, 6, 16, dtype=torch.uint8)
    assert cut_blocks(fours, torch.ones(2, 5, 6)).shape == (10, 6, 16)  # type: ignore[union-attr]
    assert cut_blocks(codes, torch.ones(4, 24)) is None


def copy(made: str, folder: Path, change_: Change = lambda _: None, **config: Any) -> Path:
    """Copy a quantized checkpoint, with tensors and the quantization config changed."""
    shutil.copytree(DATA / made, folder)
    rewrite_weights(folder, change_)
    declared = json.loads((folder / "config.json").read_text())["quantization_config"]
    return rewrite_config(folder, quantization_config={**declared, **config})


def put_(name: str, index: object, value: float) -> Change:
    return lambda tensors: tensors[f"{MODULE}.{name}"].__setitem__(index, value)


def lose_(name: str) -> Change:
    return lambda tensors: tensors.pop(f"{MODULE}.{name}")


def spoil_code_(tensors: Tensors) -> None:
    # All ones but for the sign is NaN in E4M3.
    tensors[DOWN].view(torch.uint8)[2, 2] = 0x7F


W4, SCALE = "llm-compressor-W4A16", "weight_scale"
# Groups of 32 take four words of eight codes; 8 stands for zero.
BLANK = int.from_bytes(b"\x88\x88\x88\x88", "little", signed=True)
UNSCALED = f"the scales of {MODULE}."
CODES: dict[str, tuple[str, Change, str, str, str]] = {
    "scales lost": (W4, lose_(SCALE), "missing-tensor", SCALE, UNSCALED),
    "scales lost of gptq": ("auto-round-gptq", lose_("scales"), "missing-tensor", "scales", UNSCALED),
    "scales lost of awq": ("auto-round-awq", lose_("scales"), "missing-tensor", "scales", UNSCALED),
    "a scale of zero": (
        W4,
        put_(SCALE, (3, 1), 0),
        "degenerate-scale",
        SCALE,
        "1 of 384 scales are zero, though the codes under them",
    ),
    "level scales": (
        W4,
        put_(SCALE, ..., 1),
        "degenerate-scale",
        SCALE,
        "all 384 scales are 1, as if they had never been set",
    ),
    "a blank group": (
        W4,
        put_("weight_packed", (3, slice(4, 8)), BLANK),
        "zero-group",
        "weight_packed",
        "1 of 384 groups of codes are constant under a scale",
    ),
    "an infinite scale": (W4, put_(SCALE, (0, 0), float("inf")), "non-finite", SCALE, "it holds 1 infinite value"),
    "a code that is NaN": ("llm-compressor-FP8", spoil_code_, "non-finite", "weight", "it holds 1 NaN"),
    "an exponent that is NaN": (
        "llm-compressor-MXFP4A16",
        put_(SCALE, (1, 1), 0xFF),
        "degenerate-scale",
        SCALE,
        "a power of two among its scales is NaN",
    ),
}


@pytest.mark.parametrize("case", CODES)
def test_codes_and_scales_that_cannot_be_are_serious(case: str, tmp_path: Path) -> None:
    made, change_, kind, where, said = CODES[case]
    flaw = only(lint(copy(made, tmp_path / "it", change_)))
    assert (flaw[0], flaw[1], flaw[3]) == (kind, f"{MODULE}.{where}", True)
    assert flaw[2].startswith(said)


@pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 64}], ids=str)
@pytest.mark.parametrize("made", ["auto-round-gptq", "auto-round-awq"])
def test_bits_and_groups_that_the_codes_have_not_are_serious(
    made: str, change: dict[str, int], tmp_path: Path
) -> None:
    report = lint(copy(made, tmp_path / "it", **change))
    assert {flaw.kind for flaw in report.flaws} == {"mismatched-tensor"}
    # Six layers of seven matrices each; no more than five are listed.
    assert (report.counts, report.serious, len(report.flaws)) == ({"mismatched-tensor": 42}, 42, 5)


def test_codes_of_another_library_than_the_configuration_names_are_serious(tmp_path: Path) -> None:
    folder = copy("llm-compressor-W4A16", tmp_path / "it", quant_method="gptq", bits=4, group_size=32)
    kind, where, found, _ = only(lint(folder))
    assert (kind, where) == ("config-without-codes", "config.json")
    assert found.startswith("config.json says gptq, and no tensor ends in .qweight, but model.layers.0.")
