"""How far each layer is from the parent's, held against sums over hidden states of whole models."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.checkpoints import EXPERTS
from support.experts import make_experts
from support.planted import build_gpt2, build_llama, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.descent import LayerErrorObserver
from sw_audit.measure.engine import run_arms
from sw_audit.measure.readers import batch_windows
from sw_audit.record.arm import Arm
from sw_audit.record.descent import DESCENDANT, PARENT, LayerError

LAYER = 2
MIXTRAL = next(family for family in EXPERTS if family.model_type == "mixtral")


def make_windows() -> Windows:
    token_ids = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    # The last window overlaps the one before: only its last three tokens are new.
    return Windows(token_ids, torch.tensor([1, 1, 1, 6]))


def disturb(parent: Checkpoint, layer: int = LAYER) -> Checkpoint:
    """Change all matrices of one layer a little."""
    made = wrap_model(copy.deepcopy(parent.model))
    generator = torch.Generator().manual_seed(5)
    for matrix in made.layers[layer].matrices:
        matrix.weight.add_(0.1 * matrix.weight.std() * torch.randn(matrix.shape, generator=generator))
    return made


def note(parent: Checkpoint, descendant: Checkpoint) -> list[LayerError]:
    batches = batch_windows(make_windows(), parent.vocabulary)
    notes = LayerErrorObserver(batches)
    arms = [Arm(name=PARENT), Arm(name=DESCENDANT)]
    run_arms(descendant, arms, [one.token_ids for one in batches], lambda *_: None, parent=parent, observer=notes)
    return notes.errors


@torch.no_grad()
def list_states(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """Return the residual stream before the first layer and after each, [windows, tokens, hidden]."""
    seen: list[torch.Tensor] = []
    handles = [
        layer.module.register_forward_hook(lambda _, __, out: seen.append(out if torch.is_tensor(out) else out[0]))
        for layer in checkpoint.layers
    ]
    first = checkpoint.layers[0].module.register_forward_pre_hook(
        lambda _, given, named: seen.append((given or (named.get("hidden_states"),))[0].clone()), with_kwargs=True
    )
    checkpoint.model(input_ids=make_windows().token_ids, use_cache=False)
    for handle in (*handles, first):
        handle.remove()
    return seen


def sum_scored(states: torch.Tensor) -> float:
    return sum(
        float(states[window, begin:].double().square().sum())
        for window, begin in enumerate(make_windows().first_scored.tolist())
    )


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_signal_and_noise_are_sums_over_scored_tokens_of_the_residual_stream(build: Any) -> None:
    parent = wrap_model(build(layers=4))
    descendant = disturb(parent)
    errors = note(parent, descendant)
    theirs, ours = list_states(parent), list_states(descendant)
    assert [one.layer for one in errors] == [0, 1, 2, 3]
    for layer, error in enumerate(errors):
        there, here = theirs[layer + 1], ours[layer + 1]
        assert error.signal == pytest.approx(sum_scored(there), rel=1e-9)
        assert error.noise == pytest.approx(sum_scored(here - there), rel=1e-5)
    assert [one.noise == 0 for one in errors] == [True, True, False, False]


def test_own_noise_is_what_one_layer_alone_adds_on_the_parents_states() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = disturb(parent)
    errors = note(parent, descendant)
    # Only one layer differs, so alone it makes all the noise there, and none after it.
    assert [one.own_noise == 0 for one in errors] == [True, True, False, True]
    assert errors[LAYER].own_noise == pytest.approx(errors[LAYER].noise, rel=1e-5)
    assert errors[LAYER + 1].noise or 0 > 0


def test_the_range_of_the_down_projections_is_the_descendants_over_all_tokens() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = disturb(parent)
    given: dict[int, float] = {}
    made: dict[int, float] = {}
    for layer in descendant.layers:
        assert layer.down_projection is not None

        def keep(_: Any, inputs: Any, output: torch.Tensor, index: int = layer.index) -> None:
            given[index], made[index] = float(inputs[0].abs().max()), float(output.abs().max())

        layer.down_projection.module.register_forward_hook(keep)
    with torch.no_grad():
        descendant.model(input_ids=make_windows().token_ids)
    expected = (dict(given), dict(made))
    errors = note(parent, descendant)
    assert {one.layer: one.down_input for one in errors} == expected[0]
    assert {one.layer: one.down_output for one in errors} == expected[1]
    assert all(one.finite for one in errors)


def test_the_range_of_experts_is_that_of_the_largest_one() -> None:
    parent = wrap_model(make_experts(MIXTRAL))
    descendant = wrap_model(copy.deepcopy(parent.model))
    experts = descendant.layers[1].down_projections
    before = note(parent, descendant)
    for one in experts:
        one.weight.mul_(8.0)
    after = note(parent, descendant)
    assert before[1].down_output is not None
    assert after[1].down_output == pytest.approx(8 * before[1].down_output, rel=1e-5)
    assert after[1].down_input == before[1].down_input
    assert before[0].down_output == after[0].down_output


def test_a_layer_that_is_not_finite_has_no_noise_and_says_so() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = wrap_model(copy.deepcopy(parent.model))
    down = descendant.layers[LAYER].down_projection
    assert down is not None
    down.weight[5, 7] = math.nan
    errors = note(parent, descendant)
    assert [one.noise is None for one in errors] == [False, False, True, True]
    assert [one.own_noise is None for one in errors] == [False, False, True, False]
    assert [one.finite for one in errors] == [True, True, False, False]
    assert (errors[LAYER].down_output, errors[LAYER - 1].noise) == (None, 0.0)


def test_where_the_parent_is_not_finite_nothing_is_said() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = wrap_model(copy.deepcopy(parent.model))
    down = parent.layers[LAYER].down_projection
    assert down is not None
    down.weight[5, 7] = math.nan
    assert [one.layer for one in note(parent, descendant)] == [0, 1]
