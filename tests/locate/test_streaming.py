"""Locating while reading finds what locating in memory finds, to the last bit, and needs little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import locating_ways
from support.bulky import HUNDRED_MEGABYTES, PLANTED, write_llama
from support.checkpoints import (
    DENSE,
    EXPERTS,
    LLAMA,
    VISION,
    WORDS,
    Family,
    make_model,
    make_tokenizer,
    save_checkpoint,
)
from support.planted import Planted, plant_, wrap_model

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.settings import LocatorSettings
from sw_audit.locate.streaming import open_for_locating, stream_location
from sw_audit.locate.trace import count_early_layers
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import Outcome

PROMPT = " ".join(WORDS[:9])
# Random weights hold no super weight; with these settings there is always something to compare.
LOOSE = LocatorSettings(standout=1.0, constancy=100.0)
BY_NAME = {str(family): family for family in (*DENSE, *EXPERTS, *VISION)}
FAMILIES = "llama gpt2 mistral qwen2 gemma2 phi3 opt falcon bloom mixtral qwen3_moe gpt_oss llama4_text llava"


def same_location(folder: Path, settings: LocatorSettings = LOOSE, **options: object) -> Outcome:
    """Hold both ways against each other and return the outcome."""
    wanted = ModelPolicy(source=str(folder), **options)
    whole = locate_super_weights(open_checkpoint(wanted), PROMPT, settings)
    assert stream_location(wanted, PROMPT, settings=settings) == whole
    early = locate_super_weights(open_checkpoint(wanted), PROMPT, settings, "early")
    assert stream_location(wanted, PROMPT, "early", settings=settings) == early
    return whole.outcome


def save_planted(folder: Path, family: Family, layer: int = 1, **settings: object) -> Path:
    """Save a model of eight layers with a super weight in one of them, row 5, column 7."""
    model = make_model(family, num_hidden_layers=8, **settings)
    plant_(wrap_model(model), Planted(layer=layer, row=5, column=7))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", [BY_NAME[name] for name in FAMILIES.split()], ids=str)
def test_streaming_finds_what_memory_finds(family: Family, tmp_path: Path) -> None:
    assert same_location(save_checkpoint(tmp_path, family)) is not Outcome.NONE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_than_the_stored_one_gives_the_same(dtype: str, tmp_path: Path) -> None:
    same_location(save_checkpoint(tmp_path, BY_NAME["qwen2"]), dtype=dtype)


def test_half_precision_on_disk_and_tied_embeddings_and_many_shards_give_the_same(tmp_path: Path) -> None:
    model = make_model(LLAMA, tie_word_embeddings=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    make_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same_location(tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_planted_super_weight_is_found_at_either_depth(name: str, tmp_path: Path) -> None:
    settings = {"n_layer": 8} if name == "gpt2" else {}
    wanted = ModelPolicy(source=str(save_planted(tmp_path, BY_NAME[name], **settings)))
    for depth in ("full", "early"):
        location = stream_location(wanted, PROMPT, depth)
        [found] = location.super_weights
        assert (found.layer, found.row, found.column) == (1, 5, 7)
        assert location.depth == depth
        # At least four, of which the first three can hold a cause.
        assert location.layers_seen == len(location.trace) == (8 if depth == "full" else 4)


def test_early_reads_no_layer_beyond(tmp_path: Path) -> None:
    folder = save_planted(tmp_path, LLAMA)
    tensors = load_file(folder / "model.safetensors")
    broken = {
        name: torch.full_like(tensor, torch.nan) if any(f".{layer}." in name for layer in range(4, 8)) else tensor
        for name, tensor in tensors.items()
    }
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = ModelPolicy(source=str(folder))
    assert stream_location(wanted, PROMPT, "early").outcome is Outcome.LOCATED
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.4\..*' holds NaN"):
        stream_location(wanted, PROMPT, "full")


def test_what_appears_in_the_last_layer_that_was_read_has_not_been_seen_to_persist(tmp_path: Path) -> None:
    wanted = ModelPolicy(source=str(save_planted(tmp_path, LLAMA, layer=3)))
    assert stream_location(wanted, PROMPT).outcome is Outcome.LOCATED
    assert stream_location(wanted, PROMPT, "early").outcome is Outcome.NONE


def test_the_early_layers_are_never_more_than_there_are() -> None:
    counts = [count_early_layers(layers, LocatorSettings()) for layers in (1, 3, 4, 16, 17, 28, 42)]
    assert counts == [1, 3, 4, 4, 5, 7, 11]


def test_progress_goes_forward_layer_by_layer(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    folder = save_planted(tmp_path, LLAMA)
    stream_location(
        ModelPolicy(source=str(folder)),
        PROMPT,
        "early",
        lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert steps == [("locating", done, 4) for done in range(5)]


def test_a_checkpoint_that_cannot_be_streamed_is_loaded_whole_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_checkpoint(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    wanted = ModelPolicy(source=str(folder), allow_pickle=True)
    expected = locate_super_weights(open_checkpoint(wanted), PROMPT, LOOSE)
    capsys.readouterr()
    assert stream_location(wanted, PROMPT, settings=LOOSE) == expected
    said = capsys.readouterr().err
    assert said == f"sw-audit: model {str(folder)!r} is loaded whole, for its weights are no safetensors\n"


def test_without_a_digest_the_files_are_not_named(tmp_path: Path) -> None:
    wanted = ModelPolicy(source=str(save_checkpoint(tmp_path)))
    whole = open_checkpoint(wanted).identity
    assert open_for_locating(wanted).identity == whole
    assert open_for_locating(wanted, digest=False).identity == whole.model_copy(update={"files": (), "digest": ""})


@pytest.mark.slow
def test_streaming_grows_by_a_fraction_of_what_loading_whole_grows_by(tmp_path: Path) -> None:
    size = write_llama(tmp_path / "model", HUNDRED_MEGABYTES)
    grown = {}
    for way in ("whole", "full", "early"):
        command = [sys.executable, locating_ways.__file__, way, str(tmp_path / "model")]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert measured["found"] == list(PLANTED)
        grown[way] = measured["peak"] - measured["before"]
    assert grown["whole"] > size
    # What does not depend on the size (threads, caches of the library) is in all three.
    assert grown["whole"] - grown["full"] > 0.6 * size
    assert grown["whole"] - grown["early"] > 0.6 * size
