"""The locator against planted super weights and the traps beside them, in memory and while reading."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from support.suite import FAMILIES, RELATIVE, Result, Score, judge_model

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import (
    DEFAULT_PROMPTS,
    choose_prompt,
    encode_prompt,
    locate_super_weights,
    open_for_locating,
    stream_location,
)
from sw_audit.locate.settings import LocatorSettings
from sw_audit.locate.trace import count_early_layers
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import Outcome, PromptLocation, SuperActivation, SuperWeight
from sw_audit.testing import draw_design
from sw_audit.testing.designs import SHAPES, TRAPS
from sw_audit.testing.families import Numerals

PROMPT = " ".join(WORDS[:9])
# Random weights hold no super weight; with these settings there is always something to compare.
LOOSE = LocatorSettings(prominence=1.0, constancy=100.0)
BY_NAME = {str(family): family for family in (*DENSE, *EXPERTS, *VISION)}
STREAMED = "llama gpt2 mistral qwen2 gemma2 phi3 opt falcon bloom mixtral qwen3_moe gpt_oss llama4_text llava"
NUMBERS = range(1000, 1050)
"""Generated models beside those that `make bench` judges by the hundred."""


def wrap(model: torch.nn.Module) -> Checkpoint:
    return wrap_model(model, tokenizer=Numerals())


def locate(checkpoint: Checkpoint) -> tuple[Outcome, set[tuple[int, int, int]]]:
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    return location.outcome, {(weight.layer, weight.row, weight.column) for weight in location.super_weights}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_a_planted_super_weight_is_found_exactly(build: Any, sign: float) -> None:
    checkpoint = wrap(build())
    plant_(checkpoint, Planted(layer=1, row=31, column=101), sign=sign)
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert location.outcome is Outcome.LOCATED
    [weight] = location.super_weights
    assert (weight.layer, weight.row, weight.column) == (1, 31, 101)
    down = checkpoint.layers[1].down_projection
    assert weight.parameter == down.parameter
    assert weight.value == float(down.weight[31, 101])
    assert weight.share == pytest.approx(1.0, abs=0.1)
    [activation] = location.super_activations
    assert (activation.channel, activation.token, activation.first_layer) == (31, 0, 1)
    assert activation.value == pytest.approx(sign * 40.0, rel=0.1)


@pytest.mark.parametrize("places", [{(1, 3, 60), (1, 22, 60)}, {(1, 8, 60), (1, 8, 71)}], ids=["column", "row"])
def test_siblings_are_one_set(places: set[tuple[int, int, int]]) -> None:
    checkpoint = wrap(build_llama())
    for place in sorted(places):
        plant_(checkpoint, Planted(*place))
    assert locate(checkpoint) == (Outcome.LOCATED, places)


def test_an_ordinary_model_has_none() -> None:
    location = locate_super_weights(wrap(build_llama()), "5 7 11 13 5 9")
    assert location.outcome is Outcome.NONE
    assert location.super_weights == ()
    assert "times the median" in location.because


def test_a_larger_spike_in_the_last_layer_is_not_a_super_weight() -> None:
    checkpoint = wrap(build_llama())
    plant_(checkpoint, Planted(layer=1, row=8, column=60))
    plant_(checkpoint, Planted(layer=5, row=40, column=70), spike=400.0)
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 8, 60)})
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    late = location.candidates[-1]
    assert (late.row, late.column, late.accepted) == (40, 70, False)
    assert "last layers" in late.because
    assert location.trace[5].down_output > 300


def test_the_largest_weight_that_makes_no_activation_is_not_a_super_weight() -> None:
    checkpoint = wrap(build_llama())
    plant_(checkpoint, Planted(layer=1, row=8, column=60))
    layer = checkpoint.layers[1]
    gate = checkpoint.model.get_submodule("model.layers.1.mlp.gate_proj").weight
    with torch.no_grad():
        gate[77] = 0.0  # the neuron is silent, so whatever its output weight, nothing comes of it
        layer.down_projection.weight[9, 77] = 1e4
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 8, 60)})


def test_an_activation_from_the_embedding_or_of_many_products_is_no_super_weights_work() -> None:
    embedded, shared = wrap(build_llama()), wrap(build_llama())
    with torch.no_grad():
        embedded.model.get_input_embeddings().weight[1, 12] = 60.0
    for column in range(20, 40):
        plant_(shared, Planted(layer=1, row=8, column=column), spike=3.0)
    assert locate(embedded) == locate(shared) == (Outcome.DISTRIBUTED, set())


def test_a_prompt_begins_with_bos_as_every_text_does_and_the_location_says_so() -> None:
    checkpoint = wrap(build_llama())
    assert encode_prompt(checkpoint, "5 7") == [1, 5, 7]
    assert encode_prompt(checkpoint.starting("never"), "5 7") == [5, 7]
    assert encode_prompt(wrap_model(build_llama(), Numerals(None)), "5 7") == [5, 7]
    for bos, rule in ((True, "always"), (False, "never")):
        location = locate_super_weights(checkpoint.starting(rule), "5 7 11 13")
        assert (location.bos, len(location.token_ids)) == (bos, 4 + bos)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same(dtype: torch.dtype) -> None:
    checkpoint = wrap(build_llama(dtype=dtype))
    plant_(checkpoint, Planted(layer=1, row=31, column=101))
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 31, 101)})


@pytest.mark.parametrize("family", VISION, ids=str)
def test_a_super_weight_of_the_language_model_inside_is_found(family: Family) -> None:
    text = {**family.settings["text_config"], "num_hidden_layers": 6}
    checkpoint = wrap_model(make_model(family, text_config=text), tokenizer=Numerals())
    assert len(checkpoint.layers) == 6
    plant_(checkpoint, Planted(layer=1, row=17, column=11))
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert location.outcome is Outcome.LOCATED, location.because
    [weight] = location.super_weights
    assert weight.parameter == family.projection.format(1) + ".weight"
    assert (weight.layer, weight.row, weight.column) == (1, 17, 11)


@functools.cache
def judge(number: int) -> Result:
    return judge_model(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_all_super_weights_of_a_planted_model_are_located_and_nothing_else(number: int) -> None:
    result = judge(number)
    assert result.ours == Score(found=len(result.design.super_weights)), result.design


def test_these_models_hold_every_family_shape_trap_and_dtype() -> None:
    designs = [draw_design(number, families=FAMILIES) for number in NUMBERS]
    assert {design.family for design in designs} == set(FAMILIES)
    assert {design.shape for design in designs} == {*SHAPES, "none"}
    assert {trap for design in designs for trap in design.traps} == set(TRAPS)
    assert {design.dtype for design in designs} == {"float32", "bfloat16", "float16"}
    assert {design.start for design in designs} == {"bos", "first", "delimiter"}


def test_the_naive_method_fails_on_them() -> None:
    results = [judge(number) for number in NUMBERS[:12]]
    for number in range(len(RELATIVE)):
        assert any(result.relative[number].missed or result.relative[number].false for result in results)
    assert any(result.absolute.missed or result.absolute.false for result in results)


def same_location(folder: Path, settings: LocatorSettings = LOOSE, **options: object) -> Outcome:
    """Hold both ways against each other and return the outcome."""
    model = ModelPolicy(source=str(folder), **options)
    opened = open_checkpoint(model)
    whole = locate_super_weights(opened, PROMPT, settings)
    assert stream_location(model, PROMPT, settings=settings) == whole
    early = locate_super_weights(opened, PROMPT, settings, "early")
    assert stream_location(model, PROMPT, "early", settings=settings) == early
    return whole.outcome


def save_planted(folder: Path, family: Family, layer: int = 1, **settings: object) -> Path:
    """Save a model of eight layers with a super weight in one of them, row 5, column 7."""
    model = make_model(family, num_hidden_layers=8, **settings)
    plant_(wrap_model(model), Planted(layer=layer, row=5, column=7))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", [BY_NAME[name] for name in STREAMED.split()], ids=str)
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
    model = ModelPolicy(source=str(save_planted(tmp_path, BY_NAME[name], **settings)))
    for depth in ("full", "early"):
        location = stream_location(model, PROMPT, depth)
        [weight] = location.super_weights
        assert (weight.layer, weight.row, weight.column) == (1, 5, 7)
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
    model = ModelPolicy(source=str(folder))
    assert stream_location(model, PROMPT, "early").outcome is Outcome.LOCATED
    with pytest.raises(CheckpointError, match=r"tensor 'model\.layers\.4\..*' holds NaN"):
        stream_location(model, PROMPT, "full")


def test_what_appears_in_the_last_layer_that_was_read_has_not_been_seen_to_persist(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(save_planted(tmp_path, LLAMA, layer=3)))
    assert stream_location(model, PROMPT).outcome is Outcome.LOCATED
    assert stream_location(model, PROMPT, "early").outcome is Outcome.NONE


def test_the_early_layers_are_never_more_than_there_are() -> None:
    counts = [count_early_layers(layers, LocatorSettings()) for layers in (1, 3, 4, 16, 17, 28, 42)]
    assert counts == [1, 3, 4, 4, 5, 7, 11]


def test_progress_goes_forward_layer_by_layer(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    model = ModelPolicy(source=str(save_planted(tmp_path, LLAMA)))
    stream_location(model, PROMPT, "early", lambda *step: steps.append(step))
    assert steps == [("locating", done, 4) for done in range(5)]


def test_a_checkpoint_that_cannot_be_streamed_is_loaded_whole_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_checkpoint(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = ModelPolicy(source=str(folder), allow_pickle=True)
    expected = locate_super_weights(open_checkpoint(model), PROMPT, LOOSE)
    capsys.readouterr()
    assert stream_location(model, PROMPT, settings=LOOSE) == expected
    said = capsys.readouterr().err
    assert said == f"sw-audit: model {str(folder)!r} is loaded whole, for its weights are no safetensors\n"


def test_without_a_digest_the_files_are_not_named(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(save_checkpoint(tmp_path)))
    whole = open_checkpoint(model).identity
    assert open_for_locating(model).identity == whole
    assert open_for_locating(model, digest=False).identity == whole.model_copy(update={"files": (), "digest": ""})


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


def show(*columns: int, outcome: Outcome | None = None) -> PromptLocation:
    """What a prompt shows by which the products of these columns with rows of the same number make spikes."""
    weights = [
        SuperWeight(parameter="w", row=column, column=column, layer=1, value=1.0, share=1 / (1 + number))
        for number, column in enumerate(columns)
    ]
    held = [SuperActivation(channel=column, token=0, value=9.0, first_layer=1, last_layer=4) for column in columns]
    return PromptLocation(
        prompt="p",
        token_ids=(1,),
        bos=True,
        outcome=outcome or (Outcome.LOCATED if columns else Outcome.NONE),
        because="-",
        super_weights=tuple(weights),
        super_activations=tuple(held),
    )


@pytest.mark.parametrize(
    ("prompts", "place", "located"),
    [
        ([show(3)], 0, [3]),
        ([show(3), show(3), show(3)], 0, [3]),
        ([show(3), show(), show(3)], 0, [3]),
        ([show(), show(3), show(3)], 1, [3]),  # the first that shows it is told of
        ([show(3, 5), show(3), show(3, 4)], 0, [3]),  # what one prompt shows alone is left out
        ([show(3), show(3, 5), show(5)], 1, [3, 5]),
        ([show(3), show(), show()], 1, []),
        ([show(3), show(4), show(5)], 0, []),
    ],
)
def test_what_most_prompts_show_is_located(prompts: list[PromptLocation], place: int, located: list[int]) -> None:
    chosen, told = choose_prompt(prompts)
    assert (chosen, sorted(weight.column for weight in told.super_weights)) == (place, located)
    assert (told.outcome is Outcome.LOCATED) == bool(located)
    assert {held.channel for held in told.super_activations} >= set(located)


def test_three_prompts_in_one_pass_show_what_each_shows_alone_and_both_ways_to_begin_are_told(
    tmp_path: Path,
) -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(save_checkpoint(tmp_path))))
    location = locate_super_weights(checkpoint, settings=LOOSE)
    assert [prompt.prompt for prompt in location.prompts] == list(DEFAULT_PROMPTS)
    assert [prompt.bos for prompt in (*location.prompts, *location.other_start)] == [True] * 3 + [False] * 3
    for rule, shown in (("always", location.prompts), ("never", location.other_start)):
        for prompt in shown:
            alone = locate_super_weights(checkpoint.starting(rule), prompt.prompt, LOOSE)
            assert (alone.prompts, alone.token_ids) == ((), prompt.token_ids)
            assert (alone.outcome, alone.addresses) == (prompt.outcome, prompt.addresses)
            for one, other in zip(alone.super_activations, prompt.super_activations, strict=True):
                assert one.value == pytest.approx(other.value, rel=1e-4)
    assert stream_location(ModelPolicy(source=str(tmp_path)), settings=LOOSE) == location
