"""What a descendant kept of a planted super weight and of the activation that it makes, worked out by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from support.baselines import hold
from support.critical import NORM, make_scalar, make_search
from support.engine import copy_of
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.retention import (
    compare_with_baseline,
    follow_retained_activations,
    read_retained_weights,
    translate_address,
)
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import Location, SuperWeight
from sw_audit.specimen import specimen_path

SUPER = Planted(layer=1, row=17, column=30)


def open_planted(build: Any = build_llama) -> Checkpoint:
    checkpoint = wrap_model(build())
    plant_(checkpoint, SUPER)
    return checkpoint


def weight_of(checkpoint: Checkpoint, layer: int = SUPER.layer) -> torch.Tensor:
    return checkpoint.layers[layer].down_projection.weight


def describe(checkpoint: Checkpoint) -> SuperWeight:
    name = checkpoint.layers[SUPER.layer].down_projection.parameter
    value = float(weight_of(checkpoint)[SUPER.row, SUPER.column])
    return SuperWeight(parameter=name, **dataclasses.asdict(SUPER), value=value, share=1.0)


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_value_row_and_column_are_read_in_out_first_whatever_the_layout(build: Any) -> None:
    parent = open_planted(build)
    descendant = copy_of(parent)
    weight = weight_of(descendant)
    weight[SUPER.row, SUPER.column] *= 0.75
    weight[SUPER.row, : SUPER.column] *= 1.25
    weight[SUPER.row, SUPER.column + 1 :] *= 1.25
    weight[: SUPER.row, SUPER.column] = 0.0
    weight[SUPER.row + 1 :, SUPER.column] = 0.0
    [retained] = read_retained_weights(parent, descendant, [describe(parent)])
    assert retained.parent == describe(parent).value
    assert retained.value == pytest.approx(0.75 * retained.parent, rel=1e-6)
    assert retained.relative_error == pytest.approx(-0.25 if retained.parent > 0 else 0.25, rel=1e-6)
    # The scalar itself is in neither: all else in the row grew by a quarter, all else in the column is gone.
    assert retained.row_error == pytest.approx(0.25, rel=1e-5)
    assert retained.column_error == pytest.approx(1.0, rel=1e-6)


def test_nothing_changed_is_no_error_and_a_value_that_is_not_finite_says_so_and_has_none() -> None:
    parent = open_planted()
    descendant = copy_of(parent)
    [kept] = read_retained_weights(parent, descendant, [describe(parent)])
    assert (kept.relative_error, kept.row_error, kept.column_error) == (0.0, 0.0, 0.0)
    weight_of(descendant)[SUPER.row, SUPER.column] = math.inf
    [lost] = read_retained_weights(parent, descendant, [describe(parent)])
    assert (lost.value, lost.finite, lost.relative_error, lost.row_error) == (None, False, None, None)


@pytest.mark.parametrize("change", ["narrower", "shallower"])
def test_a_scalar_that_the_descendant_has_no_place_for_cannot_be_read(change: str) -> None:
    parent = open_planted()
    model: Any = build_llama(layers=6 if change == "narrower" else 1)
    if change == "narrower":
        model.model.layers[SUPER.layer].mlp.down_proj = torch.nn.Linear(100, 48, bias=False)
    [retained] = read_retained_weights(parent, wrap_model(model), [describe(parent)])
    assert (retained.value, retained.finite) == (None, True)


class Wrapped(torch.nn.Module):
    """A model inside of another, as adapters make it: every name gets longer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config, self.dtype = model.config, model.dtype

        self.get_decoder = model.get_decoder
        self.get_input_embeddings = model.get_input_embeddings
        self.get_output_embeddings = model.get_output_embeddings


def test_a_scalar_is_found_where_everything_has_longer_names() -> None:
    parent = open_planted()
    model: Any = Wrapped(copy.deepcopy(parent.model))
    descendant = wrap_model(model)
    address = describe(parent).address
    translated = translate_address(parent, descendant, address)
    assert translated == address.model_copy(update={"parameter": f"inner.{address.parameter}"})
    assert translate_address(descendant, parent, translated) == address
    head = address.model_copy(update={"parameter": "lm_head.weight"})
    assert translate_address(parent, descendant, head) is None


@pytest.fixture(scope="module")
def specimen() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture(scope="module")
def location(specimen: Checkpoint) -> Location:
    return locate_super_weights(specimen)


@torch.no_grad()
def list_states(checkpoint: Checkpoint, location: Location) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    handles = [
        layer.module.register_forward_hook(lambda _, __, out: seen.append(out[0].clone()))
        for layer in checkpoint.layers
    ]
    checkpoint.model(input_ids=torch.tensor([location.token_ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen  # [tokens, hidden] each


def attend(checkpoint: Checkpoint, location: Location, layers: range, token: int) -> float:
    model: Any = copy.deepcopy(checkpoint.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(input_ids=torch.tensor([location.token_ids]), output_attentions=True).attentions
    shares = [float(weights[layer][0, :, token + 1 :, token].mean()) for layer in layers]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("factor", [1.0, 0.9, 0.0, -1.0])
def test_the_activation_is_followed_in_both_at_the_parents_channel_and_token(
    specimen: Checkpoint, location: Location, factor: float
) -> None:
    [weight], [activation] = location.super_weights, location.super_activations
    descendant = copy_of(specimen)
    weight_of(descendant, weight.layer)[weight.row, weight.column] *= factor
    [retained], _ = follow_retained_activations(specimen, descendant, location)
    span = range(activation.first_layer, activation.last_layer + 1)
    there, here = list_states(specimen, location), list_states(descendant, location)
    token, channel = activation.token, activation.channel
    assert (retained.token, retained.channel, retained.layers) == (token, channel, tuple(span))
    assert retained.parent == tuple(float(there[layer][token, channel]) for layer in span)
    assert retained.value == tuple(float(here[layer][token, channel]) for layer in span)
    largest = [int(here[layer][token].abs().argmax()) == channel for layer in span]
    assert list(retained.loudest) == largest
    later = range(span.start + 1, min(span.stop + 1, len(specimen.layers)))
    assert retained.sink_parent == pytest.approx(attend(specimen, location, later, token), rel=1e-5)
    assert retained.sink == pytest.approx(attend(descendant, location, later, token), rel=1e-5)
    if factor == 0.0:
        # Without its super weight the specimen's later tokens rest there no more.
        assert retained.sink < retained.sink_parent / 2


def test_a_parent_read_layer_by_layer_is_followed_all_the_same(specimen: Checkpoint, location: Location) -> None:
    streamed = open_streaming(ModelPolicy(source=str(specimen_path())))
    descendant, weights = copy_of(specimen), location.super_weights
    activations = [follow_retained_activations(parent, descendant, location) for parent in (streamed, specimen)]
    assert activations[0] == activations[1]
    retained = [read_retained_weights(parent, descendant, weights) for parent in (streamed, specimen)]
    assert retained[0] == retained[1]


def test_an_activation_that_is_not_finite_is_none_and_not_the_loudest(
    specimen: Checkpoint, location: Location
) -> None:
    descendant = copy_of(specimen)
    weight_of(descendant, 3)[0, 0] = math.nan
    [retained], _ = follow_retained_activations(specimen, descendant, location)
    lost = retained.layers.index(3)
    # Channel 0 of the stream is lost in layer 3; what comes after it is lost altogether.
    assert [value is None for value in retained.value] == [place > lost for place in range(len(retained.layers))]
    assert retained.loudest == (*[True] * lost, *[False] * (len(retained.layers) - lost))
    assert retained.sink is None
    assert retained.sink_parent is not None


def test_a_baseline_is_completed_with_the_critical_scalars_that_its_search_found(
    specimen: Checkpoint, location: Location
) -> None:
    known = hold(then=location).baseline
    assert known is not None
    descendant = copy_of(specimen)
    with torch.no_grad():
        descendant.model.get_parameter(NORM)[17] *= 0.5
    value = float(specimen.model.get_parameter(NORM)[17])
    searched = known.model_copy(update={"critical": make_search(make_scalar(NORM, 17, value=value))})
    gain, weight = compare_with_baseline(descendant, location, searched).scalars
    assert (gain.parent, gain.relative_error) == (value, pytest.approx(-0.5 * math.copysign(1.0, value)))
    assert (weight.address, weight.relative_error) == (location.super_weights[0].scalar, 0.0)
    assert compare_with_baseline(descendant, location, known).scalars == ()


def test_models_of_another_shape_have_no_activations_in_common(specimen: Checkpoint, location: Location) -> None:
    assert follow_retained_activations(specimen, wrap_model(build_llama(layers=4)), location) == ((), None)
