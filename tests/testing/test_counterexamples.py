"""A super activation that depends on the prompt is told by the shortest prompt that shows it."""

from __future__ import annotations

import dataclasses

import pytest

from sw_audit.locate.locator import locate_super_weights
from sw_audit.record.location import Location
from sw_audit.testing import PlantedModel, build_planted_model, find_counterexample, make_design


def locate_planted(start: str) -> tuple[PlantedModel, Location]:
    """Plant a super weight that answers to BOS, or to the first token of one prompt only, and locate it."""
    design = make_design(family="llama", layers=6, dtype="float32", start=start, shape="one", traps=(), seed=4)
    planted = build_planted_model(design)
    location = locate_super_weights(planted.checkpoint, design.text)
    assert set(location.addresses) == planted.super_weights
    return planted, location


def test_where_the_spike_sits_at_bos_no_prompt_breaks_it() -> None:
    planted, location = locate_planted("bos")
    assert find_counterexample(planted.checkpoint, location, examples=40) is None


def test_a_spike_that_needs_one_token_is_broken_by_a_single_other_one() -> None:
    planted, location = locate_planted("first")
    found = find_counterexample(planted.checkpoint, location, examples=40)
    assert found is not None
    assert len(found.token_ids) == 1
    assert found.token_ids[0] != planted.design.prompt[0]
    assert found.because
    assert [trace.prompt for trace in found.traces] == [found.text] == [str(found.token_ids[0])]


def test_the_same_seed_finds_the_same_prompt() -> None:
    planted, location = locate_planted("first")
    first, again = (find_counterexample(planted.checkpoint, location, examples=20, seed=9) for _ in range(2))
    assert first is not None
    assert first == again


@pytest.mark.parametrize("examples", [0, -1])
def test_a_search_of_no_examples_finds_nothing(examples: int) -> None:
    planted, location = locate_planted("first")
    assert find_counterexample(planted.checkpoint, location, examples=examples) is None


def test_without_a_super_activation_there_is_no_law_to_break() -> None:
    planted, location = locate_planted("first")
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
    calm = dataclasses.replace(planted.checkpoint)
    find_counterexample(calm, location, tolerance=1e9, examples=30)
    handle.remove()
    assert longest
    assert max(longest) <= 8
