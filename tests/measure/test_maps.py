"""What is seen at a glance is where it was planted, and gone where it was taken away."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from support.evidence import make_location
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from support.readings import find_both_ways

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.maps import map_activations, read_neighbourhood, read_neighbourhoods, write_rows
from sw_audit.measure.mechanism import follow_super_activations
from sw_audit.measure.retention import follow_retained_activations, read_retained_weights
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import WeightAddress
from sw_audit.record.location import Location, SuperActivation
from sw_audit.record.maps import ActivationMap
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing import build_planted_model, make_design

PROMPT = (1, 5, 7, 11)
PLANTED = Planted(layer=2, row=7, column=9)
ADDRESS = WeightAddress(parameter="w", row=20, column=30)


class Words:
    """A tokenizer that writes numbers."""

    def decode(self, tokens: list[int]) -> str:
        return f"<{tokens[0]}>"


def locate_at(token: int, tokens: int) -> Location:
    """Say of a prompt of so many tokens that one of them holds the super activation."""
    held = SuperActivation(channel=1, token=token, value=9.0, first_layer=0, last_layer=1)
    return make_location().model_copy(update={"token_ids": tuple(range(tokens)), "super_activations": (held,)})


@pytest.fixture(scope="module", params=[build_llama, build_gpt2])
def planted(request: pytest.FixtureRequest) -> Checkpoint:
    checkpoint = wrap_model(request.param())
    plant_(checkpoint, PLANTED, spike=40.0)
    return checkpoint


def test_every_cell_is_the_largest_magnitude_of_the_models_own_hidden_states() -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    location = locate_super_weights(checkpoint)
    _, seen = follow_super_activations(checkpoint, location)
    assert seen is not None
    with torch.no_grad():
        ids = torch.tensor([location.token_ids])
        states = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states
    # The first is what is embedded, the last is behind the final norm.
    expected = [state[0].abs().amax(1).tolist() for state in states[1:-1]]
    for row, wanted in zip(seen.before, expected, strict=False):
        assert row == pytest.approx(wanted, rel=1e-5)
    assert seen.layers == tuple(range(6))
    assert len(seen.tokens) == len(location.token_ids)
    assert seen.tokens[0] == checkpoint.tokenizer.decode([location.token_ids[0]])


@pytest.mark.parametrize("start", ["bos", "delimiter"])
def test_the_largest_cell_is_where_the_spike_was_planted_and_after_zeroing_it_is_gone(start: str) -> None:
    design = make_design(family="llama", layers=6, dtype="float32", start=start, shape="one", traps=(), seed=5)
    model = build_planted_model(design)
    [scalar] = design.super_weights
    location = locate_super_weights(model.checkpoint, design.text)
    _, seen = follow_super_activations(model.checkpoint, location)
    assert isinstance(seen, ActivationMap)
    token, height = design.position, abs(location.super_activations[0].value)
    before, after = numpy.array(seen.before), numpy.array(seen.after)
    assert before.max(1)[: scalar.layer].max() < height / 4
    assert before.argmax(1)[scalar.layer : -1].tolist() == [token] * (5 - scalar.layer)
    assert before[scalar.layer : -1, token].tolist() == pytest.approx([height] * (5 - scalar.layer), rel=0.1)
    assert after[:-1].max() < height / 4
    assert seen.before[: scalar.layer] == seen.after[: scalar.layer]


def test_around_a_planted_scalar_its_value_is_at_its_cell_and_first_in_its_matrix(planted: Checkpoint) -> None:
    down = planted.layers[PLANTED.layer].down_projection
    assert down is not None
    address = WeightAddress(parameter=down.parameter, row=PLANTED.row, column=PLANTED.column)
    around = read_neighbourhood(down.weight, address, PLANTED.layer)
    assert (around.first_row, around.first_column) == (0, 1)
    assert (len(around.values), len(around.values[0])) == (16, 17)
    assert (around.rows, around.columns) == tuple(down.weight.shape)
    expected = down.weight[:16, 1:18].tolist()
    assert [list(row) for row in around.values] == [pytest.approx(row, rel=1e-7) for row in expected]
    assert around.values[7][8] == pytest.approx(float(down.weight[7, 9]))
    magnitudes = down.weight.abs()
    assert around.rank == 1 + int((magnitudes > magnitudes[7, 9]).sum())


def test_a_rank_counts_only_what_is_larger_and_what_is_not_finite_has_none() -> None:
    weight = torch.zeros(100, 40)
    weight[20, 30], weight[99, 39], weight[0, 0], weight[50, 1] = -3.0, 4.0, 3.0, -5.0
    around = read_neighbourhood(weight, ADDRESS, 0)
    assert around.rank == 3
    assert (around.first_row, around.first_column, len(around.values), len(around.values[0])) == (12, 22, 17, 17)
    assert around.values[8][8] == -3.0
    weight[20, 30], weight[20, 31] = math.nan, math.inf
    lost = read_neighbourhood(weight, ADDRESS, 0)
    assert (lost.rank, lost.values[8][8], lost.values[8][9]) == (None, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_figures_have_no_more_digits_than_float32_and_are_read_back_to_the_last_bit(dtype: torch.dtype) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = write_rows(values)
    assert torch.equal(torch.tensor(rows), values.float())
    assert max(len(repr(value)) for row in rows for value in row) <= 16


@pytest.mark.parametrize(
    ("tokens", "held", "first", "shown"), [(64, 0, 0, 64), (90, 3, 0, 64), (90, 40, 8, 64), (90, 89, 26, 64)]
)
def test_of_a_long_prompt_the_tokens_around_the_super_activation_are_shown(
    tokens: int, held: int, first: int, shown: int
) -> None:
    states = [torch.arange(tokens)[:, None] * torch.ones(tokens, 3)] * 2
    seen = map_activations(Words(), locate_at(held, tokens), states, states)
    assert (seen.first_token, len(seen.tokens), seen.tokens[0]) == (first, shown, f"<{first}>")
    assert seen.before[1] == tuple(map(float, range(first, first + shown)))


def test_of_very_many_layers_some_are_left_out_the_first_and_last_are_not() -> None:
    states = [torch.full((2, 3), float(layer)) for layer in range(126)]
    seen = map_activations(Words(), locate_at(0, 2), states, states)
    assert len(seen.layers) == len(set(seen.layers)) == 96
    assert (seen.layers[0], seen.layers[-1]) == (0, 125)
    assert [row[0] for row in seen.before] == list(map(float, seen.layers))


def test_what_is_not_finite_has_no_figure() -> None:
    lost = [torch.tensor([[1.0, -7.0], [math.nan, 2.0], [math.inf, 2.0]])]
    seen = map_activations(Words(), locate_at(0, 3), lost, lost)
    assert seen.before == ((7.0, None, None),)


def test_a_model_that_is_read_as_it_runs_shows_the_same() -> None:
    located = locate_super_weights(open_checkpoint(ModelPolicy(source=str(specimen_path()))))
    ours, theirs, _ = find_both_ways(lambda checkpoint: read_neighbourhoods(checkpoint, located.super_weights))
    assert ours == theirs
    assert len(ours) == len(located.super_weights)


def test_beside_a_parent_both_sides_are_shown() -> None:
    parent = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    descendant = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    location = locate_super_weights(parent)
    [weight], [held] = location.super_weights, location.super_activations
    with torch.no_grad():
        descendant.matrix(weight.parameter).weight[weight.row, weight.column] = 0.0
    [retained] = read_retained_weights(parent, descendant, location.super_weights)
    there, here = retained.parent_neighbourhood, retained.neighbourhood
    assert there is not None
    assert here is not None
    place = weight.row - there.first_row, weight.column - there.first_column
    assert there.values[place[0]][place[1]] == pytest.approx(weight.value)
    assert here.values[place[0]][place[1]] == 0.0
    assert (there.rank, here.rank) == (1, there.rows * there.columns)
    _, seen = follow_retained_activations(parent, descendant, location)
    assert seen is not None
    assert seen.before[held.last_layer][held.token] > 4 * seen.after[held.last_layer][held.token]
