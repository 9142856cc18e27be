"""The locator against planted super weights and the traps that stand beside them."""

from __future__ import annotations

import pytest
import torch
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.locator import encode_prompt, locate_super_weights
from sw_audit.record.location import Outcome


class Words:
    """A tokenizer of numbers: '5 7 11' becomes the ids 5, 7, 11."""

    bos_token_id: int | None = 1

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens is False
        return [int(word) for word in text.split()]


def wrap(model: torch.nn.Module) -> Checkpoint:
    return wrap_model(model, tokenizer=Words())


def locate(checkpoint: Checkpoint) -> tuple[Outcome, set[tuple[int, int, int]]]:
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    return location.outcome, {(weight.layer, weight.row, weight.column) for weight in location.super_weights}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_a_planted_super_weight_is_found_exactly(build: object, sign: float) -> None:
    checkpoint = wrap(build())  # type: ignore[operator]
    plant_(checkpoint, Planted(layer=1, row=31, column=101), sign=sign)
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert location.outcome is Outcome.LOCATED
    [weight] = location.super_weights
    assert (weight.layer, weight.row, weight.column) == (1, 31, 101)
    down = checkpoint.layers[1].down_projection
    assert down is not None
    assert weight.parameter == down.parameter
    assert weight.value == float(down.weight[31, 101])
    assert weight.share == pytest.approx(1.0, abs=0.1)
    [activation] = location.super_activations
    assert (activation.channel, activation.token, activation.first_layer) == (31, 0, 1)
    assert activation.value == pytest.approx(sign * 40.0, rel=0.1)


def test_siblings_on_one_column_are_one_set() -> None:
    checkpoint = wrap(build_llama())
    for row in (3, 22):
        plant_(checkpoint, Planted(layer=1, row=row, column=60))
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 3, 60), (1, 22, 60)})


def test_siblings_on_one_row_share_one_activation() -> None:
    checkpoint = wrap(build_llama())
    for column in (60, 71):
        plant_(checkpoint, Planted(layer=1, row=8, column=column))
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 8, 60), (1, 8, 71)})


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
    assert location.trace[5].down_output is not None
    assert location.trace[5].down_output > 300


def test_the_largest_weight_that_makes_no_activation_is_not_a_super_weight() -> None:
    checkpoint = wrap(build_llama())
    plant_(checkpoint, Planted(layer=1, row=8, column=60))
    layer = checkpoint.layers[1]
    assert layer.down_projection is not None
    gate = checkpoint.model.get_submodule("model.layers.1.mlp.gate_proj").weight
    with torch.no_grad():
        gate[77] = 0.0  # the neuron is silent, so whatever its output weight, nothing comes of it
        layer.down_projection.weight[9, 77] = 1e4
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 8, 60)})


def test_a_massive_activation_from_the_embedding_is_not_a_super_weights_work() -> None:
    checkpoint = wrap(build_llama())
    with torch.no_grad():
        checkpoint.model.get_input_embeddings().weight[1, 12] = 60.0
    outcome, found = locate(checkpoint)
    assert outcome is Outcome.DISTRIBUTED
    assert found == set()


def test_a_spike_that_many_products_share_is_distributed() -> None:
    checkpoint = wrap(build_llama())
    for column in range(20, 40):
        plant_(checkpoint, Planted(layer=1, row=8, column=column), spike=3.0)
    outcome, found = locate(checkpoint)
    assert outcome is Outcome.DISTRIBUTED
    assert found == set()


def test_a_tokenizer_without_bos_gets_none_and_that_is_recorded() -> None:
    words = Words()
    words.bos_token_id = None
    assert encode_prompt(words, "5 7") == ([5, 7], False)
    assert encode_prompt(Words(), "5 7") == ([1, 5, 7], True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same(dtype: torch.dtype) -> None:
    checkpoint = wrap(build_llama(dtype=dtype))
    plant_(checkpoint, Planted(layer=1, row=31, column=101))
    assert locate(checkpoint) == (Outcome.LOCATED, {(1, 31, 101)})
