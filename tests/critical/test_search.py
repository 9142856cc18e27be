"""The search: what is planted is found, in the right kind; what is inert is not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.packed import pack_projections_

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.parameters import find_parameter
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import Windows, window_corpus
from sw_audit.critical.search import _Search, confirm_location, find_critical_scalars, write_own_text
from sw_audit.critical.trials import Trials, Tried, zeroing
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import CorpusPolicy, CriticalPolicy, ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.location import Location, SuperWeight
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing.families import build_random_model, wrap_model

DOWN = "model.layers.1.mlp.down_proj.weight"
SUPER_WEIGHT = ScalarAddress(parameter=DOWN, index=(5, 7))
TEXT = CorpusPolicy(source="specimen", window=64, windows=4)
FEW = CriticalPolicy(candidates=24)


@pytest.fixture(scope="module")
def specimen() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture(scope="module")
def location(specimen: Checkpoint) -> Location:
    return locate_super_weights(specimen)


def add_located(location: Location, row: int, column: int) -> Location:
    """Let a location name another scalar of the super weight's matrix, which does nothing."""
    [weight] = location.super_weights
    other = SuperWeight(parameter=weight.parameter, row=row, column=column, layer=1, value=0.01, share=0.0)
    return location.model_copy(update={"super_weights": (weight, other)})


def test_the_specimens_super_weight_is_bearing_and_costs_most(specimen: Checkpoint, location: Location) -> None:
    before = {name: value.clone() for name, value in specimen.model.state_dict().items()}
    search = find_critical_scalars(specimen, TEXT, location, FEW)
    first = search.critical[0]
    assert (first.address, first.kind, first.located) == (SUPER_WEIGHT, "alone", True)
    assert search.impacts == {str(SUPER_WEIGHT): "bearing"}
    assert confirm_location(location, search).super_weights[0].impact == "bearing"
    assert location.super_weights[0].impact == "unconfirmed"
    assert all(torch.equal(value, before[name]) for name, value in specimen.model.state_dict().items())


def test_every_scalar_that_is_called_critical_is_when_the_model_is_changed_for_good(
    specimen: Checkpoint, location: Location
) -> None:
    search = find_critical_scalars(specimen, TEXT, location, FEW)
    rows = torch.tensor(_cut(specimen))
    alone = [scalar for scalar in search.scalars if scalar.effect is not None]
    assert {scalar.kind for scalar in alone} == {"alone", None}
    plain = _measure(specimen, rows)
    for scalar in alone[:6]:
        parameter = find_parameter(specimen, scalar.address.parameter)
        assert parameter is not None
        held = parameter.weight[scalar.address.index].clone()
        parameter.weight[scalar.address.index] = 0.0
        ratio = float((_measure(specimen, rows) - plain).exp())
        parameter.weight[scalar.address.index] = held
        assert scalar.effect is not None
        assert scalar.effect.ratio == pytest.approx(ratio, rel=1e-3)
        assert (scalar.kind == "alone") == (ratio >= 1.2)


def _cut(checkpoint: Checkpoint) -> list[list[int]]:
    bos, limit = checkpoint.start.bos, checkpoint.maximum_positions
    rows: list[list[int]] = window_corpus(
        read_corpus(TEXT), checkpoint.tokenizer, TEXT, limit, bos
    ).token_ids.tolist()
    return rows


@torch.no_grad()
def _measure(checkpoint: Checkpoint, rows: torch.Tensor) -> torch.Tensor:
    logits = checkpoint.model(input_ids=rows).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten())


def test_a_located_neighbour_that_does_nothing_is_inert(specimen: Checkpoint, location: Location) -> None:
    search = find_critical_scalars(specimen, TEXT, add_located(location, 6, 7), FEW)
    assert search.impacts == {str(SUPER_WEIGHT): "bearing", f"{DOWN}[6, 7]": "inert"}
    assert search.located is not None
    assert len(search.located.members) == 2
    assert ScalarAddress(parameter=DOWN, index=(6, 7)) not in search.list_critical()


def test_a_super_activation_that_nothing_depends_on_is_said_to_be_that(location: Location) -> None:
    # A model that hears nothing of its layers: whatever they make, the loss stays what it is.
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    with torch.no_grad():
        checkpoint.model.model.norm.weight.zero_()
    search = find_critical_scalars(checkpoint, TEXT, location, FEW)
    assert search.critical == ()
    assert set(search.impacts.values()) == {"inert"}
    assert any("Nothing depends on the super activation in channel 5" in note for note in search.notes)


def test_a_search_is_the_same_twice_and_knows_its_text(specimen: Checkpoint, location: Location) -> None:
    first, second = (find_critical_scalars(specimen, TEXT, location, FEW) for _ in range(2))
    assert first == second
    assert (first.text, first.own_text, first.window, first.windows) == ("specimen", False, 64, 4)
    assert first.questions > 24


def test_without_a_text_the_model_writes_one(specimen: Checkpoint, location: Location) -> None:
    windows = write_own_text(specimen, location)
    assert torch.equal(windows.token_ids, write_own_text(specimen, location).token_ids)
    assert not torch.equal(windows.token_ids, write_own_text(specimen, location, seed=1).token_ids)
    assert set(windows.token_ids[:, 0].tolist()) == {specimen.start.bos}
    search = find_critical_scalars(specimen, None, location, FEW)
    assert search.own_text
    assert search.critical[0].address == SUPER_WEIGHT


def test_more_candidates_than_scalars_are_all_scalars_and_it_is_said() -> None:
    checkpoint = wrap_model(build_random_model("llama", 1))
    windows = Windows(torch.randint(3, 100, (4, 12)), torch.ones(4, dtype=torch.long))
    location = locate_nothing()
    size = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    search = find_critical_scalars(checkpoint, windows, location, CriticalPolicy(candidates=size + 1))
    assert any(f"the model has {size:,} scalars" in note for note in search.notes)


def locate_nothing() -> Location:
    """Return a location in which nothing was located."""
    located = locate_super_weights(open_checkpoint(ModelPolicy(source=str(specimen_path()))))
    nothing: dict[str, object] = {"super_weights": (), "super_activations": (), "candidates": (), "prompts": ()}
    return located.model_copy(update={**nothing, "outcome": "none", "other_start": (), "earlier_stages": ()})


def test_a_scalar_of_a_tied_parameter_is_told_by_one_name_and_the_other_in_a_note() -> None:
    checkpoint = wrap_model(build_random_model("gemma", 1))
    rows = torch.randint(3, 100, (4, 12), generator=torch.Generator().manual_seed(0))
    search = find_critical_scalars(
        checkpoint,
        Windows(rows, torch.ones(4, dtype=torch.long)),
        locate_nothing(),
        CriticalPolicy(candidates=400),
    )
    assert "lm_head.weight" not in {scalar.address.parameter for scalar in search.scalars}
    assert any("model.embed_tokens.weight is lm_head.weight as well" in note for note in search.notes)


def test_members_of_a_group_are_of_different_channels(specimen: Checkpoint, location: Location) -> None:
    windows = Windows(torch.tensor(_cut(specimen)), torch.ones(4, dtype=torch.long), bos=specimen.start.bos)
    search = _Search(specimen, windows, location, CriticalPolicy(), 0.95, 4, lambda *_: None, None)
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(4)]
    parameters = [find_parameter(specimen, name) for name in names]
    scalars = [
        Tried(parameter, (place,), 1.0, rank=50)
        for parameter in parameters
        if parameter is not None
        for place in range(2)
    ]
    groups = list(search._group(scalars))
    assert sum(len(group) for group in groups) == len(scalars) == 8
    assert max(len(group) for group in groups) > 1
    for group in groups:
        channels = [scalar.index[0] for scalar in group]
        assert len(set(channels)) == len(channels)


def test_a_packed_model_is_searched_by_the_matrices_that_it_multiplies_by(location: Location) -> None:
    plain = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    model = pack_projections_(open_checkpoint(ModelPolicy(source=str(specimen_path()))).model)
    packed = wrap_model(model, plain.tokenizer)
    packed.start = plain.start
    search = find_critical_scalars(packed, TEXT, location, FEW)
    assert search.critical[0].address == SUPER_WEIGHT
    assert search.impacts == {str(SUPER_WEIGHT): "bearing"}


def test_where_no_gradient_can_be_taken_the_locators_scalars_are_tried_and_it_is_said(location: Location) -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    checkpoint.layers[3].module.mlp.register_forward_hook(lambda _, __, output: Sealed.apply(output))
    search = find_critical_scalars(checkpoint, TEXT, location, FEW)
    assert search.ranked == 0
    assert any("No gradient can be taken (sealed)" in note for note in search.notes)
    assert search.critical[0].address == SUPER_WEIGHT


class Sealed(torch.autograd.Function):
    """Lets values through and no gradient back."""

    @staticmethod
    def forward(_: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: object, __: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("sealed")


def test_a_model_whose_loss_is_not_finite_is_refused_in_one_line(location: Location) -> None:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    with torch.no_grad():
        checkpoint.model.model.norm.weight[3] = torch.nan
    with pytest.raises(CheckpointError, match="its loss on the text is not finite"):
        find_critical_scalars(checkpoint, TEXT, location, FEW)


@pytest.fixture(scope="module", params=["as it is", "tied", "half as wide"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the specimen, also with a head that is its embedding, and stored in another dtype than it runs in."""
    folder = tmp_path_factory.mktemp("model") / "model"
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    shutil.copytree(specimen_path(), folder)
    if request.param == "tied":
        checkpoint.model.config.tie_word_embeddings = True
        checkpoint.model.tie_weights()
        checkpoint.model.save_pretrained(folder)
    elif request.param == "half as wide":
        checkpoint.model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_model_that_is_read_layer_by_layer_within_little_memory_gives_the_same_search(folder: Path) -> None:
    policy = ModelPolicy(source=str(folder), dtype="float32")
    whole, streamed = open_checkpoint(policy), replace(open_streaming(policy), memory=20_000)
    location = locate_super_weights(whole)
    asked = CriticalPolicy(candidates=24, interventions=("zero", "median", "one"))
    searches = [find_critical_scalars(one, TEXT, location, asked) for one in (whole, streamed)]
    assert searches[0] == searches[1]
    assert any(scalar.layer is None for scalar in searches[0].scalars)
    before, after = whole.model.state_dict(), open_checkpoint(policy).model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_scalars_of_the_head_and_the_last_norm_are_set_in_a_model_that_is_read_layer_by_layer(
    folder: Path,
) -> None:
    policy = ModelPolicy(source=str(folder), dtype="float32")
    costs = []
    for checkpoint in (open_checkpoint(policy), open_streaming(policy)):
        trials = Trials(checkpoint, Windows(torch.arange(3, 35)[None], torch.ones(1, dtype=torch.long)))
        named = [("lm_head.weight", (20, 4)), ("model.norm.weight", (5,))]
        trial = zeroing(Tried(find_parameter(checkpoint, name), index, 1.0) for name, index in named)
        trials.measure([trial], 1)
        costs.append(trials.cost(trial))
    assert costs[0] == costs[1] != 0


def plant_pair() -> Checkpoint:
    """Let two scalars write the same large value into a channel: the norm behind them does not mind which."""
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    down = checkpoint.matrix(DOWN)
    inward = [checkpoint.matrix(f"model.layers.1.mlp.{name}_proj.weight") for name in ("gate", "up")]
    with torch.no_grad():
        for matrix in inward:  # neuron 8 fires as neuron 7 does
            matrix.weight[8] = matrix.weight[7]
        down.weight[:, 8] = 0.0
        down.weight[5, 8] = down.weight[5, 7] * 3
        down.weight[5, 7] *= 3
    return checkpoint


def test_a_pair_of_which_one_is_enough_is_found_as_a_set_where_nothing_was_located() -> None:
    search = find_critical_scalars(plant_pair(), TEXT, locate_nothing(), FEW)
    pair = tuple(ScalarAddress(parameter=DOWN, index=(5, column)) for column in (7, 8))
    [found] = [one for one in search.sets if set(pair) <= set(one.members)]
    assert found.kind == "together"
    assert found.effect.ratio is not None
    assert found.effect.ratio > 100
    assert {scalar.kind for scalar in search.scalars if scalar.address in pair} == {"together"}


def test_a_pair_of_which_one_is_enough_is_bearing_where_it_was_located() -> None:
    checkpoint = plant_pair()
    location = locate_super_weights(checkpoint)
    search = find_critical_scalars(checkpoint, TEXT, location, FEW)
    trials = Trials(checkpoint, Windows(torch.tensor(_cut(checkpoint)), torch.ones(4, dtype=torch.long)))
    parameter = find_parameter(checkpoint, DOWN)
    assert parameter is not None
    pair = [Tried(parameter, (5, column), parameter.read((5, column))) for column in (7, 8)]
    trials.measure([zeroing(pair), *(zeroing([one]) for one in pair)], 4)
    alone = [trials.cost(zeroing([one])) for one in pair]
    assert max(alone) < 0.18 < trials.cost(zeroing(pair))
    found = {scalar.address: scalar for scalar in search.critical}
    for one in pair:
        assert found[one.address].kind == "together"
        assert search.impacts[str(one.address)] == "bearing"
