"""A planted super weight: made by one MLP, carried by the skip connections, gone with the weight."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.mechanism import eager_attention, follow_super_activations
from sw_audit.record.location import Location, Outcome, SuperActivation, SuperWeight
from sw_audit.record.mechanism import Mechanism
from sw_audit.testing import build_planted_model, make_design

PROMPT = (1, 5, 7, 11, 13)
PLANTED = Planted(layer=1, row=7, column=9)


def locate_by_hand(checkpoint: Checkpoint, planted: Planted = PLANTED, *, more: tuple[int, ...] = ()) -> Location:
    """Say where the super weight was planted, as the locator would."""
    down = checkpoint.layers[planted.layer].down_projection
    assert down is not None
    weights = tuple(
        SuperWeight(
            parameter=down.parameter,
            row=planted.row,
            column=column,
            layer=planted.layer,
            value=float(down.weight[planted.row, column]),
            share=1.0,
        )
        for column in (planted.column, *more)
    )
    last = len(checkpoint.layers) - 1
    return Location(
        outcome=Outcome.LOCATED,
        because="planted",
        prompt="planted",
        token_ids=PROMPT,
        bos=True,
        super_weights=weights,
        super_activations=(
            SuperActivation(channel=planted.row, token=0, value=40.0, first_layer=planted.layer, last_layer=last),
        ),
        candidates=(),
        trace=(),
    )


def follow(checkpoint: Checkpoint) -> Mechanism:
    [mechanism] = follow_super_activations(checkpoint, locate_by_hand(checkpoint))
    return mechanism


@pytest.fixture(scope="module", params=[build_llama, build_gpt2])
def planted(request: pytest.FixtureRequest) -> Checkpoint:
    checkpoint = wrap_model(request.param())
    plant_(checkpoint, PLANTED, spike=40.0)
    return checkpoint


def test_the_parts_of_every_layer_add_up_to_its_output(planted: Checkpoint) -> None:
    mechanism = follow(planted)
    assert len(mechanism.layers) == len(planted.layers)
    for one in mechanism.layers:
        for seen in (one.intact, one.pruned):
            assert seen.attention is not None
            assert seen.mlp is not None
            assert seen.skip + seen.attention + seen.mlp == pytest.approx(seen.leaving, abs=1e-12)


def test_each_layer_takes_up_what_the_one_before_it_left(planted: Checkpoint) -> None:
    layers = follow(planted).layers
    for before, after in itertools.pairwise(layers):
        assert after.intact.skip == before.intact.leaving
        assert after.pruned.skip == before.pruned.leaving


def test_the_values_are_those_of_the_models_own_forward(planted: Checkpoint) -> None:
    outputs = planted.model(input_ids=torch.tensor([PROMPT]), use_cache=False, output_hidden_states=True)
    # The last entry is after the final norm.
    expected = [float(states[0, 0, PLANTED.row]) for states in outputs.hidden_states[:-1]]
    assert [one.intact.skip for one in follow(planted).layers] == pytest.approx(expected, abs=1e-4)


def test_the_mlp_makes_it_and_the_skip_connections_carry_it(planted: Checkpoint) -> None:
    mechanism = follow(planted)
    made = mechanism.layers[PLANTED.layer].intact
    assert made.mlp == pytest.approx(40.0, abs=2.0)
    assert abs(made.attention or 0) < 2
    assert mechanism.carried is not None
    assert mechanism.carried > 0.9


def test_without_the_weight_it_is_gone_from_its_layer_on(planted: Checkpoint) -> None:
    mechanism = follow(planted)
    assert mechanism.layers[0].dampened == 0
    assert mechanism.dampened is not None
    assert mechanism.dampened > 0.9


def test_attention_is_a_share_and_before_the_weight_it_is_the_same(planted: Checkpoint) -> None:
    layers = follow(planted).layers
    for one in layers:
        assert one.attended is not None
        assert 0 <= one.attended <= 1
    for one in layers[: PLANTED.layer + 1]:
        assert one.attended == one.attended_pruned
    assert any(one.attended != one.attended_pruned for one in layers[PLANTED.layer + 1 :])


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
    design = make_design(family=family, layers=6, dtype="float32", start="bos", shape="one", traps=(), seed=5)
    model = build_planted_model(design)
    [address] = model.super_weights
    location = locate_super_weights(model.checkpoint, design.text)
    [mechanism] = follow_super_activations(model.checkpoint, location)
    [scalar] = design.super_weights
    made = mechanism.layers[scalar.layer].intact
    assert (mechanism.channel, mechanism.first_layer) == (address.row, scalar.layer)
    assert made.mlp is not None
    assert made.attention is not None
    assert abs(made.mlp) > 0.95 * abs(made.leaving)
    assert abs(made.attention) < 0.05 * abs(made.leaving)
    assert mechanism.carried is not None
    assert mechanism.carried > 0.9
    assert mechanism.dampened is not None
    assert mechanism.dampened > 0.9
    for one in mechanism.layers:
        assert one.attended is not None
        assert one.intact.skip + (one.intact.attention or 0) + (one.intact.mlp or 0) == pytest.approx(
            one.intact.leaving, rel=1e-5, abs=1e-5
        )


def test_attention_weights_of_a_pass_that_does_something_else_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = wrap_model(build_llama())
    plant_(checkpoint, PLANTED)
    calm = follow(checkpoint)
    forward = checkpoint.layers[2].module.self_attn.forward

    @functools.wraps(forward)
    def differ(*positional: Any, **named: Any) -> Any:
        output, weights = forward(*positional, **named)
        return (output if checkpoint.model.config._attn_implementation == "sdpa" else -9 * output), weights

    monkeypatch.setattr(checkpoint.layers[2].module.self_attn, "forward", differ)
    [mechanism] = follow_super_activations(checkpoint, locate_by_hand(checkpoint))
    assert [one.attended is None for one in mechanism.layers] == [False, False, True, True, True, True]
    assert [one.intact for one in mechanism.layers] == [one.intact for one in calm.layers]


def test_where_attention_cannot_be_computed_step_by_step_the_rest_is_told_without_it() -> None:
    # Its tiny configuration shares heads in a way that only the fused kernel runs.
    design = make_design(
        family="deepseek_v3", layers=6, dtype="float32", start="bos", shape="one", traps=(), seed=5
    )
    checkpoint = build_planted_model(design).checkpoint
    with eager_attention(checkpoint.model), pytest.raises(RuntimeError, match="must match"):
        checkpoint.model(input_ids=torch.tensor([design.prompt]))
    location = locate_super_weights(checkpoint, design.text)
    [mechanism] = follow_super_activations(checkpoint, location)
    assert {one.attended for one in mechanism.layers} == {None}
    assert all(one.intact.mlp is not None for one in mechanism.layers)
    assert mechanism.dampened is not None
    assert mechanism.dampened > 0.9


def test_a_pass_that_is_not_finite_leaves_no_mechanism() -> None:
    checkpoint = wrap_model(build_llama())
    plant_(checkpoint, PLANTED)
    down = checkpoint.layers[3].down_projection
    assert down is not None
    down.weight[PLANTED.row] = torch.inf
    assert follow_super_activations(checkpoint, locate_by_hand(checkpoint)) == ()


def test_without_super_weights_nothing_is_run() -> None:
    checkpoint = wrap_model(build_llama())
    nothing = locate_by_hand(checkpoint).model_copy(update={"super_weights": (), "outcome": Outcome.DISTRIBUTED})
    checkpoint.model.forward = None  # a call would fail
    assert follow_super_activations(checkpoint, nothing) == ()


def test_what_is_dampened_and_carried_is_taken_from_the_layers_that_hold_it() -> None:
    def layer(number: int, skip: float, leaving: float, pruned: float) -> dict[str, object]:
        return {
            "layer": number,
            "intact": {"skip": skip, "leaving": leaving},
            "pruned": {"skip": 0.0, "leaving": pruned},
        }

    rows = [
        layer(0, 0, 2, 2),
        layer(1, 2, 100, -25),
        layer(2, 100, 125, 25),
        layer(3, 125, 100, 50),
        layer(4, 9, 0, 0),
    ]
    whole = {"channel": 1, "token": 0, "first_layer": 1, "last_layer": 3, "layers": rows}
    mechanism = Mechanism.model_validate(whole)
    assert [one.dampened for one in mechanism.layers] == [0, 0.75, 0.8, 0.5, None]
    assert mechanism.dampened == 0.75
    assert mechanism.carried == 0.8
    even = Mechanism.model_validate({**whole, "last_layer": 2})
    assert even.dampened == pytest.approx(0.775)
    assert Mechanism.model_validate({**whole, "last_layer": 1}).carried is None
