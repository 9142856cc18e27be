"""What descendants of tiny real models kept of scalars of every kind, each changed by a known factor."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.checkpoints import make_tokenizer
from support.engine import copy_of
from support.evidence import make_location
from support.packed import pack_projections_

from sw_audit.checkpoint.live import open_live_model
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.parameters import find_parameter
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.measure.critical_scalars import list_bearing, read_critical_scalars, restore_scalars
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import RESTORED_SCALARS, RestoredScalars, SetScalars
from sw_audit.record.critical import CriticalScalar, CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.location import Location, Outcome
from sw_audit.specimen import specimen_path
from sw_audit.testing.families import build_random_model, wrap_model

NONE = make_location(Outcome.NONE)


def address(parameter: str, *index: int) -> ScalarAddress:
    return ScalarAddress(parameter=parameter, index=index)


def search(checkpoint: Checkpoint, *addresses: ScalarAddress) -> CriticalSearch:
    """Return a search that found these scalars of a model."""
    scalars = []
    for one in addresses:
        parameter = find_parameter(checkpoint, one.parameter)
        assert parameter is not None
        value = parameter.read(one.index)
        applied = value + parameter.offset if parameter.offset else None
        scalars.append(CriticalScalar(address=one, value=value, applied=applied, kind="alone"))
    fields = {"window": 8, "windows": 4, "minimum_ratio": 1.1, "confidence": 0.95, "ranked": 9, "candidates": 9}
    return CriticalSearch.model_validate({"text": "text", **fields, "scalars": scalars})


def read(parent: Checkpoint, descendant: Checkpoint, *addresses: ScalarAddress) -> list[RetainedScalar]:
    return list(read_critical_scalars(descendant, search(parent, *addresses), NONE, parent))


def random_model(family: str) -> Checkpoint:
    checkpoint = wrap_model(build_random_model(family, 2))
    with torch.no_grad():
        for number, parameter in enumerate(checkpoint.model.parameters()):
            # Biases and gains are not to be 0 or 1.
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return checkpoint


def scale_(checkpoint: Checkpoint, name: str, place: tuple[int, ...], factor: float) -> None:
    """Multiply a scalar, at its place as it is stored, by a factor."""
    with torch.no_grad():
        checkpoint.model.get_parameter(name)[place] *= factor


# Where each is, and where it is stored.
PLACES = {
    "gpt2": [
        ("transformer.ln_f.weight", (17,), (17,)),
        ("transformer.h.1.mlp.c_fc.bias", (100,), (100,)),
        ("transformer.h.1.mlp.c_fc.weight", (100, 7), (7, 100)),
        ("transformer.wte.weight", (11, 5), (11, 5)),
        ("transformer.wpe.weight", (3, 5), (3, 5)),
    ],
    "mixtral": [
        ("model.layers.1.mlp.experts.down_proj", (2, 17, 11), (2, 17, 11)),
        ("model.layers.0.mlp.gate.weight", (1, 9), (1, 9)),
        ("lm_head.weight", (11, 5), (11, 5)),
    ],
}


@pytest.mark.parametrize(("family", "place"), [(name, one) for name, places in PLACES.items() for one in places])
def test_a_scalar_of_any_parameter_is_read_where_it_is(family: str, place: Any) -> None:
    name, index, stored = place
    parent = random_model(family)
    descendant = copy_of(parent)
    scale_(descendant, name, stored, 0.5)
    [kept] = read(parent, descendant, address(name, *index))
    assert kept.parent == float(parent.model.get_parameter(name)[stored])
    assert kept.relative_error == pytest.approx(-0.5 * math.copysign(1.0, kept.parent), rel=1e-6)
    [same] = read(parent, copy_of(parent), address(name, *index))
    assert same.relative_error == 0.0


def test_a_gain_that_is_stored_less_1_is_compared_as_it_is_applied() -> None:
    parent = random_model("gemma")
    descendant = copy_of(parent)
    stored = parent.model.get_parameter("model.norm.weight")
    with torch.no_grad():
        stored[17] = 3.0
        descendant.model.get_parameter("model.norm.weight")[17] = 1.0
    [gain] = read(parent, descendant, address("model.norm.weight", 17))
    # 1 + 3 has become 1 + 1.
    assert (gain.parent, gain.value, gain.relative_error) == (4.0, 2.0, -0.5)
    [arm, _] = restore_scalars(parent, descendant, [gain], 0.25)
    [act] = arm.acts
    assert isinstance(act, SetScalars)
    assert act.values == (3.0,)


def test_what_is_not_finite_says_so_and_what_has_no_place_cannot_be_read() -> None:
    parent = random_model("llama")
    descendant = copy_of(parent)
    scale_(descendant, "model.norm.weight", (17,), math.inf)
    addresses = [address("model.norm.weight", 17), address("model.layers.1.input_layernorm.weight", 3)]
    del descendant.model.model.layers[1].input_layernorm.weight
    lost, unread = read(parent, descendant, *addresses)
    assert (lost.value, lost.finite) == (None, False)
    assert (unread.value, unread.finite) == (None, True)
    # Only what has a place can be put back.
    assert [arm.purpose for arm in restore_scalars(parent, descendant, [lost, unread], 0.25)] == [
        RestoredScalars(scalar=addresses[0]),
        RESTORED_SCALARS,
    ]


def test_tokens_that_were_added_change_no_index_and_another_width_does() -> None:
    parent, grown, narrow = (random_model("llama") for _ in range(3))
    grown.model.resize_token_embeddings(130, mean_resizing=False)
    narrow.model.model.embed_tokens.weight = torch.nn.Parameter(torch.ones(101, 32))
    entry = address("model.embed_tokens.weight", 11, 5)
    [kept] = read(parent, grown, entry)
    assert kept.relative_error == 0.0
    [unread] = read(parent, narrow, entry)
    assert (unread.value, unread.finite) == (None, True)


def test_of_an_embedding_that_is_tied_in_the_parent_only_both_copies_are_read() -> None:
    parent = random_model("gpt2")
    descendant = copy_of(parent)
    descendant.model.lm_head.weight = torch.nn.Parameter(parent.model.lm_head.weight.detach().clone())
    scale_(descendant, "lm_head.weight", (11, 5), 0.0)
    both = read(parent, descendant, address("transformer.wte.weight", 11, 5))
    assert [(one.address.parameter, one.value == one.parent) for one in both] == [
        ("transformer.wte.weight", True),
        ("lm_head.weight", False),
    ]
    arms = restore_scalars(parent, descendant, both, 0.25)
    assert [act.scalars for arm in arms for act in arm.acts if isinstance(act, SetScalars)] == [
        (address("lm_head.weight", 11, 5),)
    ] * 2
    # The other way round there is one copy, whatever it is called.
    [one] = read(descendant, parent, address("lm_head.weight", 11, 5))
    assert one.value == float(parent.model.lm_head.weight[11, 5])


def test_packed_matrices_are_read_as_they_compute_and_their_biases_as_they_are() -> None:
    parent = random_model("qwen2")
    descendant = wrap_model(pack_projections_(copy.deepcopy(parent.model)))
    name = "model.layers.1.self_attn.q_proj"
    descendant.model.get_submodule(name).codes[3, 5] = 127
    with torch.no_grad():
        descendant.model.get_submodule(name).bias[3] *= 0.5
    weight, bias = read(parent, descendant, address(f"{name}.weight", 3, 5), address(f"{name}.bias", 3))
    row = parent.model.get_submodule(name).weight[3]
    assert weight.value == pytest.approx(float(row.abs().max()), rel=1e-5)
    assert abs(bias.relative_error or 0.0) == pytest.approx(0.5, rel=1e-6)


class Wrapped(torch.nn.Module):
    """A model inside of another: every name gets longer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config, self.dtype, self.get_decoder = model.config, model.dtype, model.get_decoder
        self.get_input_embeddings = model.get_input_embeddings
        self.get_output_embeddings = model.get_output_embeddings


def test_a_scalar_is_found_where_everything_has_longer_names_and_where_these_are_gone_again() -> None:
    parent = random_model("llama")
    wrapped: Any = Wrapped(copy.deepcopy(parent.model))
    descendant = wrap_model(wrapped)
    scale_(descendant, "inner.model.norm.weight", (17,), 0.5)
    names = ("model.norm.weight", "model.layers.1.input_layernorm.weight")
    norm, gain = read(parent, descendant, *(address(name, 17) for name in names))
    assert norm.address == address("model.norm.weight", 17)
    assert (norm.relative_error, gain.relative_error) == (pytest.approx(-0.5), 0.0)
    back, _ = read(descendant, parent, *(address(f"inner.{name}", 17) for name in names))
    assert back.relative_error == pytest.approx(1.0)
    [arm, _] = restore_scalars(parent, descendant, [norm, gain], 0.25)
    assert arm.acts == (SetScalars(scalars=(address("inner.model.norm.weight", 17),), values=(norm.parent,)),)


def test_of_a_vision_model_the_text_model_is_a_descendant() -> None:
    parent = wrap_model(build_random_model("llava", 2))
    descendant = wrap_model(build_random_model("llama", 2))
    names = ("norm.weight", "layers.1.input_layernorm.weight")
    addresses = [address(f"model.language_model.{name}", 17) for name in names]
    kept = read(parent, descendant, *addresses, address("lm_head.weight", 11, 5))
    assert [one.value for one in kept[:2]] == [
        float(descendant.model.get_parameter(f"model.{name}")[17]) for name in names
    ]
    assert kept[2].value == float(descendant.model.lm_head.weight[11, 5])


def test_a_located_super_weight_counts_unless_it_is_inert() -> None:
    located = make_location(Outcome.LOCATED)
    [weight] = located.super_weights

    def list_those(impact: str) -> list[ScalarAddress]:
        weights = (weight.model_copy(update={"impact": impact}),)
        there = search(random_model("llama"), address("model.norm.weight", 1))
        return list(list_bearing(there, Location.model_validate({**located.__dict__, "super_weights": weights})))

    assert list_those("bearing") == [address("model.norm.weight", 1), weight.scalar]
    assert list_those("unconfirmed") == list_those("bearing")
    assert list_those("inert") == [address("model.norm.weight", 1)]


def test_the_first_four_that_moved_are_put_back_alone_and_all_of_them_together() -> None:
    parent = random_model("llama")
    descendant = copy_of(parent)
    places = [address("model.norm.weight", channel) for channel in range(7)]
    for place in (0, 1, 2, 4, 5, 6):
        scale_(descendant, "model.norm.weight", (place,), 0.5)
    scalars = read(parent, descendant, *places)
    *alone, together = restore_scalars(parent, descendant, scalars, 0.25)
    assert [arm.purpose for arm in alone] == [RestoredScalars(scalar=places[place]) for place in (0, 1, 2, 4)]
    [act] = together.acts
    assert isinstance(act, SetScalars)
    assert act.scalars == tuple(places[place] for place in (0, 1, 2, 4, 5, 6))
    gains = parent.model.model.norm.weight
    assert act.values == tuple(float(gains[place]) for place in (0, 1, 2, 4, 5, 6))
    assert restore_scalars(parent, descendant, scalars, 0.6) == ()


def test_nothing_need_be_in_memory_of_a_parent_that_is_read_layer_by_layer() -> None:
    policy = ModelPolicy(source=str(specimen_path()))
    whole, streamed = open_checkpoint(policy), open_streaming(policy)
    descendant = copy_of(whole)
    scale_(descendant, "model.norm.weight", (5,), 0.5)
    names = ("model.norm.weight", "model.layers.1.input_layernorm.weight")
    there = search(whole, *(address(name, 5) for name in names))
    found = [read_critical_scalars(descendant, there, NONE, parent) for parent in (streamed, whole)]
    assert found[0] == found[1]
    assert [one.relative_error for one in found[0]] == [pytest.approx(-0.5), 0.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
def test_what_an_adapter_adds_counts() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    parent = random_model("qwen2")
    config = peft.LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, bias="all")
    adapted = peft.get_peft_model(copy.deepcopy(parent.model), config)
    merged = wrap_model(copy.deepcopy(adapted).merge_and_unload())
    name = "model.layers.1.self_attn.q_proj"
    places = [address(f"{name}.weight", 3, 5), address(f"{name}.bias", 3), address("model.norm.weight", 17)]
    with open_live_model(adapted, make_tokenizer()) as descendant:
        found = read(parent, descendant, *places)
    expected = read(parent, merged, *places)
    assert [one.value for one in found] == [pytest.approx(one.value, rel=1e-4) for one in expected]
    assert found[0].relative_error != 0.0
