"""What a static look finds in files beside their index, their manifest and each other, and what it reports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.checkpoints import rewrite_config, rewrite_weights, save_checkpoint
from torch import Tensor

from sw_audit.checkpoint.headers import DamagedFileError, read_header
from sw_audit.checkpoint.lint import add_flaw, lint_checkpoint, report_flaws
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.weights import Flaw, WeightsReport

Tensors = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


def lint(folder: Path, **options: object) -> WeightsReport:
    return lint_checkpoint(ModelPolicy.model_validate({"source": str(folder), **options}))


def only(report: WeightsReport) -> tuple[str, str, str, bool]:
    [flaw] = report.flaws
    return flaw.kind, flaw.where, flaw.found, flaw.serious


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


def test_a_header_with_a_gap_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    spans = {"a": [0, 4], "b": [8, 16]}
    header = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in spans.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(DamagedFileError, match="a gap or an overlap before tensor 'b'"):
        read_header(path)


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
