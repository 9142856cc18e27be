"""Layers come apart into what their blocks really add; a planted super weight is followed through them."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from support.checkpoints import DENSE, VISION, make_model
from support.evidence import make_location
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from support.readings import find_both_ways
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import take_states
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.mechanism import (
    eager_attention,
    find_weights,
    follow_super_activations,
    measure_attended,
    see_layers,
)
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.location import Location, Mechanism, Outcome, SuperActivation, SuperWeight
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing import build_planted_model, make_design

PROMPT = (1, 5, 7, 11, 13)
PLANTED = Planted(layer=1, row=7, column=9)
TOKENS = (1, 5, 7, 11, 13, 4)
DESIGN: dict[str, Any] = dict(layers=6, dtype="float32", start="bos", shape="one", traps=(), seed=5)  # noqa: C408
FAMILIES = {str(family): family for family in DENSE}


def locate_by_hand(checkpoint: Checkpoint) -> Location:
    """Say where the super weight was planted, as the locator would."""
    down = checkpoint.layers[PLANTED.layer].down_projection
    place = {"parameter": down.parameter, "row": PLANTED.row, "column": PLANTED.column}
    value = float(down.weight[PLANTED.row, PLANTED.column])
    weight = SuperWeight(**place, layer=PLANTED.layer, value=value, share=1.0)
    fields = {"first_layer": PLANTED.layer, "last_layer": len(checkpoint.layers) - 1}
    activation = SuperActivation(channel=PLANTED.row, token=0, value=40.0, **fields)
    changes = {"token_ids": PROMPT, "super_weights": (weight,), "super_activations": (activation,)}
    return make_location().model_copy(update=changes)


def follow(checkpoint: Checkpoint) -> Mechanism:
    [mechanism], _ = follow_super_activations(checkpoint, locate_by_hand(checkpoint))
    return mechanism


def open_planted(build: Any = build_llama) -> Checkpoint:
    checkpoint = wrap_model(build())
    plant_(checkpoint, PLANTED, spike=40.0)
    return checkpoint


@pytest.fixture(scope="module", params=[build_llama, build_gpt2])
def planted(request: pytest.FixtureRequest) -> Checkpoint:
    return open_planted(request.param)


@pytest.fixture(scope="module")
def mechanism(planted: Checkpoint) -> Mechanism:
    return follow(planted)


def test_the_parts_of_every_layer_add_up_to_its_output_which_the_next_takes_up(
    planted: Checkpoint, mechanism: Mechanism
) -> None:
    assert len(mechanism.layers) == len(planted.layers)
    for layer in mechanism.layers:
        for parts in (layer.intact, layer.pruned):
            assert parts.skip + parts.attention + parts.mlp == pytest.approx(parts.leaving, abs=1e-12)
    for before, after in itertools.pairwise(mechanism.layers):
        assert after.intact.skip == before.intact.leaving
        assert after.pruned.skip == before.pruned.leaving


def test_the_values_are_those_of_the_models_own_forward(planted: Checkpoint, mechanism: Mechanism) -> None:
    outputs = planted.model(input_ids=torch.tensor([PROMPT]), use_cache=False, output_hidden_states=True)
    # The last entry is after the final norm.
    expected = [float(states[0, 0, PLANTED.row]) for states in outputs.hidden_states[:-1]]
    assert [layer.intact.skip for layer in mechanism.layers] == pytest.approx(expected, abs=1e-4)


def test_the_mlp_makes_it_the_skip_connections_carry_it_and_without_the_weight_it_is_gone(
    mechanism: Mechanism,
) -> None:
    made = mechanism.layers[PLANTED.layer].intact
    assert made.mlp == pytest.approx(40.0, abs=2.0)
    assert abs(made.attention) < 2
    assert mechanism.carried > 0.9
    assert mechanism.layers[0].dampened == 0
    assert mechanism.dampened > 0.9


def test_attention_is_a_share_and_before_the_weight_it_is_the_same(mechanism: Mechanism) -> None:
    assert all(0 <= layer.attended <= 1 for layer in mechanism.layers)
    same = [layer.attended == layer.attended_pruned for layer in mechanism.layers]
    assert all(same[: PLANTED.layer + 1])
    assert not all(same[PLANTED.layer + 1 :])


def test_the_model_is_bit_identical_afterwards_also_after_an_exception(planted: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in planted.model.state_dict().items()}
    implementation = planted.model.config._attn_implementation
    follow(planted)
    calls = []

    def stop(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # with the super weight zeroed, and while attention is computed step by step
            raise KeyError("stop")

    handle = planted.layers[4].module.register_forward_pre_hook(stop)
    with pytest.raises(KeyError, match="stop"):
        follow(planted)
    handle.remove()
    after = planted.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert planted.model.config._attn_implementation == implementation


# Blocks side by side, norms behind blocks, norms before and behind, and a residual stream with a multiplier.
@pytest.mark.parametrize(
    "family",
    ["falcon", "cohere", "gpt_neox", "gptj", "phi", "olmo2", "olmo3", "gemma2", "gemma3_text", "glm4", "granite"],
)
def test_in_every_kind_of_layer_the_mlp_is_told_from_attention_and_from_the_skip_connection(family: str) -> None:
    design = make_design(family=family, **DESIGN)
    model = build_planted_model(design)
    [address], [scalar] = model.super_weights, design.super_weights
    location = locate_super_weights(model.checkpoint, design.text)
    [mechanism], _ = follow_super_activations(model.checkpoint, location)
    made = mechanism.layers[scalar.layer].intact
    assert (mechanism.channel, mechanism.first_layer) == (address.row, scalar.layer)
    assert abs(made.mlp) > 0.95 * abs(made.leaving)
    assert abs(made.attention) < 0.05 * abs(made.leaving)
    assert mechanism.carried > 0.9
    assert mechanism.dampened > 0.9
    assert all(layer.attended is not None for layer in mechanism.layers)
    for parts in (layer.intact for layer in mechanism.layers):
        assert parts.skip + parts.attention + parts.mlp == pytest.approx(parts.leaving, rel=1e-5, abs=1e-5)


def test_attention_weights_of_a_pass_that_does_something_else_do_not_count() -> None:
    checkpoint = open_planted()
    calm = follow(checkpoint)
    block = checkpoint.layers[2].module.self_attn
    forward = block.forward

    @functools.wraps(forward)
    def differ(*positional: Any, **named: Any) -> Any:
        output, weights = forward(*positional, **named)
        return (output if checkpoint.model.config._attn_implementation == "sdpa" else -9 * output), weights

    block.forward = differ
    layers = follow(checkpoint).layers
    assert [layer.attended is None for layer in layers] == [False, False, True, True, True, True]
    assert [layer.intact for layer in layers] == [layer.intact for layer in calm.layers]


def test_where_attention_cannot_be_computed_step_by_step_the_rest_is_told_without_it() -> None:
    # Its tiny configuration shares heads in a way that only the fused kernel runs.
    design = make_design(family="deepseek_v3", **DESIGN)
    checkpoint = build_planted_model(design).checkpoint
    with eager_attention(checkpoint.model), pytest.raises(RuntimeError, match="must match"):
        checkpoint.model(input_ids=torch.tensor([design.prompt]))
    [mechanism], _ = follow_super_activations(checkpoint, locate_super_weights(checkpoint, design.text))
    assert {layer.attended for layer in mechanism.layers} == {None}
    assert all(layer.intact.mlp is not None for layer in mechanism.layers)
    assert mechanism.dampened > 0.9


def test_a_pass_that_is_not_finite_leaves_no_mechanism() -> None:
    checkpoint = open_planted()
    checkpoint.layers[3].down_projection.weight[PLANTED.row] = torch.inf
    assert follow_super_activations(checkpoint, locate_by_hand(checkpoint))[0] == ()


def test_without_super_weights_nothing_is_run() -> None:
    checkpoint = wrap_model(build_llama())
    nothing = locate_by_hand(checkpoint).model_copy(update={"super_weights": (), "outcome": Outcome.DISTRIBUTED})
    checkpoint.model.forward = None  # a call would fail
    assert follow_super_activations(checkpoint, nothing) == ((), None)


def test_what_is_dampened_and_carried_is_taken_from_the_layers_that_hold_it() -> None:
    figures = [(0, 2, 2), (2, 100, -25), (100, 125, 25), (125, 100, 50), (9, 0, 0)]
    rows = [
        {"layer": layer, "intact": {"skip": skip, "leaving": leaving}, "pruned": {"skip": 0.0, "leaving": pruned}}
        for layer, (skip, leaving, pruned) in enumerate(figures)
    ]
    whole = {"channel": 1, "token": 0, "first_layer": 1, "last_layer": 3, "layers": rows}
    mechanism = Mechanism.model_validate(whole)
    assert [layer.dampened for layer in mechanism.layers] == [0, 0.75, 0.8, 0.5, None]
    assert mechanism.dampened == 0.75
    assert mechanism.carried == 0.8
    even = Mechanism.model_validate({**whole, "last_layer": 2})
    assert even.dampened == pytest.approx(0.775)
    assert Mechanism.model_validate({**whole, "last_layer": 1}).carried is None


def keep_outputs(modules: list[nn.Module], model: Any) -> list[Tensor]:
    """Run the model and return what each module gave, [tokens, hidden]."""
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: Any) -> None:
        kept[module] = take_states(output).detach().clone().reshape(len(TOKENS), -1)

    handles = [module.register_forward_hook(keep) for module in modules]
    model(input_ids=torch.tensor([TOKENS]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [kept[module] for module in modules]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dense_family_comes_apart_and_shows_its_attention(family: str) -> None:
    checkpoint = wrap_model(make_model(FAMILIES[family]))
    with eager_attention(checkpoint.model):
        layers = see_layers(checkpoint, TOKENS)
    for parts in layers:
        whole = parts.entering + (parts.middle - parts.entering) + (parts.leaving - parts.middle)
        assert torch.allclose(whole, parts.leaving, atol=1e-5)
        assert torch.allclose(parts.weights.sum(-1), torch.ones(parts.weights.shape[:2]), atol=1e-5)
        assert parts.weights.triu(1).abs().max() == 0
    for before, after in itertools.pairwise(layers):
        assert torch.equal(before.leaving, after.entering)


# What joins the residual stream, read off each family's source code: before a norm, after one, times a number.
@pytest.mark.parametrize(
    ("family", "attention", "mlp", "factor"),
    [
        ("llama", "model.layers.{}.self_attn", "model.layers.{}.mlp", 1.0),
        ("gpt2", "transformer.h.{}.attn", "transformer.h.{}.mlp", 1.0),
        ("opt", "model.decoder.layers.{}.self_attn", "model.decoder.layers.{}.fc2", 1.0),
        ("gemma2", "model.layers.{}.post_attention_layernorm", "model.layers.{}.post_feedforward_layernorm", 1.0),
        ("olmo2", "model.layers.{}.post_attention_layernorm", "model.layers.{}.post_feedforward_layernorm", 1.0),
        ("gpt_neox", "gpt_neox.layers.{}.attention", "gpt_neox.layers.{}.mlp", 1.0),
        ("cohere", "model.layers.{}.self_attn", "model.layers.{}.mlp", 1.0),
        ("falcon", "transformer.h.{}.self_attention", None, 1.0),
        ("granite", "model.layers.{}.self_attn", "model.layers.{}.mlp", 0.5),
    ],
)
def test_the_parts_are_what_the_familys_blocks_gave(
    family: str, attention: str, mlp: str | None, factor: float
) -> None:
    settings = {"residual_multiplier": factor} if factor != 1 else {}
    checkpoint = wrap_model(make_model(FAMILIES[family], **settings))
    for layer, parts in enumerate(see_layers(checkpoint, TOKENS)):
        names = [name.format(layer) for name in (attention, mlp) if name is not None]
        outputs = keep_outputs([checkpoint.model.get_submodule(name) for name in names], checkpoint.model)
        for part, output in zip(
            (parts.middle - parts.entering, parts.leaving - parts.middle), outputs, strict=False
        ):
            assert torch.allclose(part, factor * output, atol=1e-5)


class Normed(nn.Module):
    """A layer that norms the sum, so that nothing that its blocks gave is in it as it was."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.norm = nn.LayerNorm(48)

    def forward(self, hidden_states: Tensor, **named: Any) -> Tensor:
        mixed = self.norm(hidden_states + self.self_attn(hidden_states=hidden_states, **named)[0])
        return self.norm(mixed + self.mlp(mixed))


def test_a_layer_that_norms_its_sums_is_not_taken_apart() -> None:
    model = build_llama(layers=3)
    checkpoint = wrap_model(model)
    normed = Normed(model.model.layers[1]).eval()
    model.model.layers[1] = normed
    object.__setattr__(checkpoint.layers[1], "module", normed)
    assert [parts.middle is None for parts in see_layers(checkpoint, TOKENS)] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_a_narrow_dtype_is_forgiven(dtype: torch.dtype) -> None:
    layers = see_layers(wrap_model(build_llama(dtype=dtype)), TOKENS)
    assert all(parts.middle is not None for parts in layers)


def list_settings(model: nn.Module) -> dict[int, dict[str, Any]]:
    """Return everything that every configuration in a model says."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return {id(config): dict(config.__dict__) for config in configs}


def test_the_implementation_of_attention_is_as_before_also_after_an_exception() -> None:
    model = build_llama()
    before = list_settings(model)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="eager"), eager_attention(model):
        raise RuntimeError(model.config._attn_implementation)
    assert list_settings(model) == before


def test_the_implementations_of_a_model_in_parts_are_as_before() -> None:
    model = make_model(VISION[0])
    model.config.vision_config._attn_implementation_internal = "eager"
    model.config.text_config._attn_implementation_internal = "sdpa"
    with eager_attention(model):
        assert model.config.text_config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "eager"


def test_no_hook_is_left_also_after_an_exception() -> None:
    checkpoint = wrap_model(build_gpt2())

    def stop(*_: object) -> None:
        raise RuntimeError("stop")

    handle = checkpoint.layers[3].module.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stop"):
        see_layers(checkpoint, TOKENS)
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in checkpoint.model.modules())


def test_attention_on_a_token_is_the_mean_over_heads_and_later_queries() -> None:
    weights = torch.tensor(
        [[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], [[1.0, 0, 0], [0.1, 0.9, 0], [0, 0, 1]]]
    )
    assert measure_attended(weights, 0) == pytest.approx((0.5 + 0.2 + 0.1 + 0.0) / 4)
    assert measure_attended(weights, 1) == pytest.approx((0.3 + 0.0) / 2)
    assert measure_attended(weights, 2) is None
    assert measure_attended(None, 0) is None


def test_only_what_has_a_weight_per_head_query_and_key_is_taken_for_weights() -> None:
    weights = torch.rand(1, 4, 6, 6)
    assert find_weights((torch.rand(1, 6, 48), weights), 6) is not None
    assert find_weights((torch.rand(1, 6, 48), None), 6) is None
    assert find_weights((torch.rand(1, 6, 48), weights), 5) is None
    assert find_weights(torch.rand(1, 6, 48), 6) is None


def test_a_model_that_is_read_as_it_runs_is_followed_with_its_super_weights_zeroed_in_two_readings() -> None:
    located = locate_super_weights(open_checkpoint(ModelPolicy(source=str(specimen_path()))))
    ours, theirs, readings = find_both_ways(lambda checkpoint: follow_super_activations(checkpoint, located))
    assert ours == theirs
    layer = ours[0][0].layers[located.super_weights[0].layer]
    assert abs(layer.pruned.leaving) < abs(layer.intact.leaving) / 4
    assert readings == {2}
