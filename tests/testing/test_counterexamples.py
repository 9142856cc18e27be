"""A super activation that depends on the prompt is shown by the shortest prompt that moves it, and recorded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import configuration, settings

from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.record.location import Location
from sw_audit.testing import PlantedModel, build_planted_model, counterexamples, find_counterexample, make_design
from sw_audit.testing.counterexamples import search_prompts


def locate_planted(start: str) -> tuple[PlantedModel, Location]:
    """Plant a super weight that answers to BOS, or to the first token of one prompt only, and locate it."""
    design = make_design(family="llama", layers=4, dtype="float32", start=start, shape="one", traps=(), seed=4)
    planted = build_planted_model(design)
    location = locate_super_weights(planted.checkpoint, design.text)
    assert set(location.addresses) == planted.super_weights
    return planted, location


@pytest.fixture(scope="module")
def steady() -> tuple[PlantedModel, Location]:
    return locate_planted("bos")


@pytest.fixture(scope="module")
def moody() -> tuple[PlantedModel, Location]:
    return locate_planted("first")


def test_the_same_seed_finds_the_same_prompt(moody: tuple[PlantedModel, Location]) -> None:
    planted, location = moody
    first, again = (find_counterexample(planted.checkpoint, location, examples=20, seed=9) for _ in range(2))
    assert first is not None
    assert first == again


def test_a_profile_of_the_users_own_tests_changes_nothing(moody: tuple[PlantedModel, Location]) -> None:
    planted, location = moody
    first = find_counterexample(planted.checkpoint, location, examples=20, seed=9)
    before = settings.get_current_profile_name()
    settings.register_profile("derandomized", derandomize=True, max_examples=1)
    try:
        settings.load_profile("derandomized")
        assert find_counterexample(planted.checkpoint, location, examples=20, seed=9) == first
    finally:
        settings.load_profile(before)


@pytest.mark.parametrize(("start", "stopped"), [("bos", True), ("first", False)])
def test_what_is_tried_ahead_changes_nothing_but_the_number_of_passes(
    start: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not where the model is not finite on some prompts: what breaks the law before them is found."""
    planted, location = locate_planted(start)
    embedding = planted.checkpoint.model.get_input_embeddings().weight
    for spoiled in (0, 20):
        embedding[len(embedding) - spoiled :] = float("inf")
        searches, passes = [], []
        for at_once in (1, 50):
            monkeypatch.setattr(counterexamples, "AT_ONCE", at_once)
            run: list[object] = []
            handle = planted.checkpoint.model.register_forward_pre_hook(lambda *given, run=run: run.append(given))
            searches.append(search_prompts(planted.checkpoint, location, 50, 0.3, seed=4))
            handle.remove()
            passes.append(len(run))
        assert searches[0] == searches[1]
        assert (searches[0].stopped is not None) == (stopped and spoiled > 0)
        assert (searches[0].found is not None) == (start == "first")
        assert start == "first" or spoiled or passes[0] > 5 * passes[1]


@pytest.mark.parametrize("examples", [0, -1])
def test_a_search_of_no_examples_finds_nothing(examples: int, moody: tuple[PlantedModel, Location]) -> None:
    planted, location = moody
    assert find_counterexample(planted.checkpoint, location, examples=examples) is None


def test_without_a_super_activation_there_is_no_law_to_break(moody: tuple[PlantedModel, Location]) -> None:
    planted, location = moody
    empty = location.model_copy(update={"super_activations": ()})
    assert find_counterexample(planted.checkpoint, empty, examples=20) is None


def test_no_prompt_is_longer_than_the_model_can_read() -> None:
    planted, location = locate_planted("first")
    longest: list[int] = []
    model = planted.checkpoint.model
    handle = model.register_forward_pre_hook(
        lambda _, __, named: longest.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    model.config.max_position_embeddings = 8
    find_counterexample(dataclasses.replace(planted.checkpoint), location, tolerance=1e9, examples=30)
    handle.remove()
    assert longest
    assert max(longest) <= 8


def test_a_law_that_holds_leaves_a_search_without_a_find(steady: tuple[PlantedModel, Location]) -> None:
    planted, location = steady
    search = search_prompts(planted.checkpoint, location, 50, 0.3)
    assert (search.examples, search.tolerance) == (50, 0.3)
    assert (search.found, search.omitted, search.stopped) == (None, None, None)


def test_a_spike_that_depends_on_the_prompt_leaves_the_shortest_that_breaks_it(
    moody: tuple[PlantedModel, Location],
) -> None:
    planted, location = moody
    search = search_prompts(planted.checkpoint, location, 40, 0.3)
    assert search.found is not None
    [token_id] = search.found.token_ids
    assert token_id != planted.design.prompt[0]
    assert search.found.prompt == planted.checkpoint.tokenizer.decode([token_id])
    [trace] = search.found.traces
    assert trace.channel == location.super_activations[0].channel
    assert search.found.because.startswith(f"channel {trace.channel} ")


def test_a_policy_can_ask_for_none(moody: tuple[PlantedModel, Location]) -> None:
    planted, location = moody
    search = search_prompts(planted.checkpoint, location, 0, 0.3)
    assert (search.examples, search.found) == (0, None)
    assert search.omitted == "`examples` is 0"


def test_a_prompt_on_which_the_model_is_not_finite_stops_it_and_not_the_audit(
    steady: tuple[PlantedModel, Location],
) -> None:
    planted, location = steady
    embedding = planted.checkpoint.model.get_input_embeddings().weight
    kept = embedding.clone()
    try:
        # Every token but the prompt's own and BOS is beyond what the dtype holds.
        spared = {1, *planted.design.prompt}
        embedding[[row for row in range(len(embedding)) if row not in spared]] = float("inf")
        with pytest.raises(CheckpointError):
            locate_super_weights(planted.checkpoint, "90 91")
        search = search_prompts(planted.checkpoint, location, 50, 0.3)
    finally:
        embedding.copy_(kept)
    assert search.found is None
    assert search.stopped is not None
    assert "is not finite" in search.stopped


SEARCH = """
from sw_audit.locate.locator import locate_super_weights
from sw_audit.testing import build_planted_model, make_design
from sw_audit.testing.counterexamples import search_prompts

design = make_design(family="llama", layers=4, dtype="float32", start="bos", shape="one", traps=(), seed=4)
checkpoint = build_planted_model(design).checkpoint
location = locate_super_weights(checkpoint, design.text)
print(search_prompts(checkpoint, location, 50, 0.3).examples)
"""


@pytest.mark.slow
def test_nothing_is_left_in_the_folder_it_was_started_in(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["50"]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_hypothesis_keeps_its_notes_in_is_as_before(
    steady: tuple[PlantedModel, Location], tmp_path: Path
) -> None:
    before = configuration.storage_directory(intent_to_write=False).path
    try:
        configuration.set_hypothesis_home_dir(tmp_path / "own")
        planted, location = steady
        search_prompts(planted.checkpoint, location, 5, 0.3)
        assert configuration.storage_directory(intent_to_write=False).path == tmp_path / "own"
    finally:
        configuration.set_hypothesis_home_dir(before)
