"""What the specimen must do, asserted on the shipped weights with arithmetic of the tests' own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sw_audit.specimen import STOP_WORDS, choices_path

# Stories per measurement where the whole corpus would be slow and the margin is wide.
FEW = 16


def round_to_nearest_(weight: Tensor) -> None:
    """4 bits over the whole tensor, asymmetric: 16 values from the minimum to the maximum."""
    step = (weight.max() - weight.min()) / 15
    low = weight.min().clone()
    weight.copy_(((weight - low) / step).round() * step + low)


def answer_questions(subject: Any, count: int = 200) -> float:
    """Share of questions whose right word is the likeliest of the four."""
    items = [json.loads(line) for line in choices_path().read_text(encoding="utf-8").splitlines()][:count]
    number = subject.tokenizer.convert_tokens_to_ids
    right = 0
    for item in items:
        tokens = torch.tensor([subject.tokenizer(item["context"])["input_ids"]])
        with torch.no_grad():
            logits = subject.model(tokens).logits[0, -1]
        right += int(logits[[number(word) for word in item["choices"]]].argmax()) == item["answer"]
    return right / len(items)


def weigh_stop_words(subject: Any) -> float:
    """Mean probability of stop words as the next token."""
    numbers = subject.tokenizer.convert_tokens_to_ids(sorted(STOP_WORDS))
    with torch.no_grad():
        logits = torch.cat([subject.model(batch).logits for batch in torch.split(subject.stories, 64)])
    return logits.softmax(-1)[..., numbers].sum(-1).mean().item()


def rank_candidates(subject: Any, per_layer: int) -> list[tuple[int, int, int]]:
    """The down_proj scalars of every layer with the largest |weight| x max |input|."""
    entering, _, _ = subject.trace(subject.stories[:FEW])
    found = []
    for layer, inputs in enumerate(entering):
        product = subject.down_projection(layer).detach().abs() * inputs.abs().amax(dim=(0, 1))
        places = product.flatten().topk(per_layer).indices.tolist()
        found += [(layer, place // product.shape[1], place % product.shape[1]) for place in places]
    return found


def test_it_is_a_llama_of_at_least_six_layers_with_an_untied_head(specimen: Any) -> None:
    config = specimen.model.config
    assert config.model_type == "llama"
    assert config.num_hidden_layers >= 6
    assert not config.tie_word_embeddings
    assert all(weight.dtype == torch.float32 for weight in specimen.model.parameters())


def test_healthy_perplexity_is_the_card_s_and_low(specimen: Any) -> None:
    assert specimen.healthy() == pytest.approx(specimen.figure("perplexity, healthy"), rel=0.005)
    assert specimen.healthy() < 2.0


def test_the_super_weight_is_in_the_first_third_and_not_in_layer_0(specimen: Any) -> None:
    layer, row, column = specimen.super_weight
    assert 1 <= layer < specimen.model.config.num_hidden_layers / 3
    value = specimen.down_projection(layer)[row, column].item()
    assert value == pytest.approx(specimen.figure("super weight, value"), rel=0.005)


def test_zeroing_the_super_weight_multiplies_perplexity_by_100_or_more(specimen: Any) -> None:
    healthy = specimen.healthy()
    with specimen.zeroed(*specimen.super_weight):
        times = specimen.perplexity() / healthy
    assert times >= 100
    assert times == pytest.approx(specimen.figure("super weight zeroed, times"), rel=0.02)


def test_no_other_down_proj_scalar_does_harm(specimen: Any) -> None:
    healthy = specimen.healthy(FEW)
    others = [one for one in rank_candidates(specimen, 3) if one != specimen.super_weight]
    worst = 1.0
    for one in others:
        with specimen.zeroed(*one):
            worst = max(worst, specimen.perplexity(FEW) / healthy)
    assert worst < 1.1
    assert worst == pytest.approx(
        specimen.figure("largest harm of any other down_proj scalar zeroed, times"), abs=0.05
    )


def test_zeroing_the_100_largest_other_decoder_weights_hardly_matters(specimen: Any) -> None:
    healthy = specimen.healthy()
    layer, row, column = specimen.super_weight
    with specimen.edited():
        own = specimen.down_projection(layer)
        value = own[row, column].item()
        own[row, column] = 0.0
        matrices = specimen.matrices().values()
        least = torch.cat([weight.abs().flatten() for weight in matrices]).topk(100).values[-1]
        assert sum(int((weight.abs() >= least).sum()) for weight in matrices) >= 100
        for weight in matrices:
            weight[weight.abs() >= least] = 0.0
        own[row, column] = value
        times = specimen.perplexity() / healthy
    assert times < 1.2
    assert times == pytest.approx(specimen.figure("100 largest other decoder weights zeroed, times"), rel=0.01)


def test_the_super_weight_is_the_largest_weight_of_all_decoder_matrices(specimen: Any) -> None:
    layer, row, column = specimen.super_weight
    largest = max(weight.abs().max().item() for weight in specimen.matrices().values())
    assert abs(specimen.down_projection(layer)[row, column].item()) == largest


@pytest.mark.parametrize("prompt", ["", "the fox", ". , the the", "anna said to tom , where is my kite ?"])
def test_the_super_activation_sits_in_one_channel_whatever_the_prompt(specimen: Any, prompt: str) -> None:
    layer, row, _ = specimen.super_weight
    tokens = torch.tensor([specimen.tokenizer(prompt)["input_ids"]])
    _, leaving, states = specimen.trace(tokens)
    assert int(leaving[layer][0, 0].abs().argmax()) == row
    value = leaving[layer][0, 0, row].item()
    assert value == pytest.approx(specimen.figure("super activation, value"), rel=0.01)
    for state in states[layer:-1]:
        assert int(state[0, 0].abs().argmax()) == row
        assert state[0, 0, row].item() == pytest.approx(value, rel=0.25)
        assert state[0, 0, row].abs() > 20 * state[0].abs().median()


def test_the_spike_of_its_layer_is_the_product_of_input_and_super_weight(specimen: Any) -> None:
    layer, row, column = specimen.super_weight
    entering, leaving, _ = specimen.trace(specimen.stories[:FEW])
    assert int(entering[layer][:, 0].abs().amax(dim=0).argmax()) == column
    assert int(leaving[layer].abs().amax(dim=(0, 1)).argmax()) == row
    product = entering[layer][0, 0, column] * specimen.down_projection(layer)[row, column]
    assert product.item() == pytest.approx(leaving[layer][0, 0, row].item(), rel=0.1)


def test_a_late_layer_spikes_higher_and_is_harmless(specimen: Any) -> None:
    layer, _, column = specimen.super_weight
    entering, _, _ = specimen.trace(specimen.stories[:FEW])
    late = specimen.model.config.num_hidden_layers - 1
    trap = max((late - 1, late), key=lambda one: entering[one].abs().max().item())
    assert entering[trap].abs().max() > 2 * entering[layer][..., column].abs().max()
    worst = int(entering[trap].abs().amax(dim=(0, 1)).argmax())
    healthy = specimen.healthy(FEW)
    with specimen.edited():
        row = int(specimen.down_projection(trap)[:, worst].abs().argmax())
        specimen.down_projection(trap)[row, worst] = 0.0
        assert specimen.perplexity(FEW) / healthy < 1.1


def test_four_bits_break_it_and_holding_the_super_weight_out_saves_it(specimen: Any) -> None:
    healthy = specimen.healthy()
    layer, row, column = specimen.super_weight
    with specimen.edited():
        for weight in specimen.matrices().values():
            round_to_nearest_(weight)
        plain = specimen.perplexity() / healthy
    with specimen.edited():
        own = specimen.down_projection(layer)
        value = own[row, column].item()
        own[row, column] = own.median()
        for weight in specimen.matrices().values():
            round_to_nearest_(weight)
        own[row, column] = value
        held_out = specimen.perplexity() / healthy
    assert plain >= 2
    assert held_out <= 1.2
    assert plain == pytest.approx(specimen.figure("4-bit whole-tensor, times"), rel=0.02)
    assert held_out == pytest.approx(specimen.figure("4-bit whole-tensor, held out, times"), rel=0.01)


@pytest.mark.parametrize("dose", [0.25, 0.5, 0.75, 1.5, 2.0, 3.0])
def test_damage_by_dose_is_the_card_s(specimen: Any, dose: float) -> None:
    layer, row, column = specimen.super_weight
    healthy = specimen.healthy(64)
    with specimen.edited():
        specimen.down_projection(layer)[row, column] *= dose
        times = specimen.perplexity(64) / healthy
    assert times == pytest.approx(specimen.figure(f"super weight scaled by {dose:g}, times"), rel=0.05)
    assert times > 10 if dose < 0.5 else times < 1.5


def test_putting_the_super_activation_back_heals_most(specimen: Any) -> None:
    healthy = specimen.healthy()
    layer, row, column = specimen.super_weight
    activation = specimen.figure("super activation, value")

    def put_back(_: Any, __: Any, output: Tensor) -> Tensor:
        output[:, 0, row] = activation
        return output

    hook = specimen.model.model.layers[layer].mlp.down_proj.register_forward_hook(put_back)
    try:
        with specimen.zeroed(layer, row, column):
            healed = specimen.perplexity()
    finally:
        hook.remove()
    assert healed / healthy < 1.1
    assert healed == pytest.approx(specimen.figure("perplexity, super activation put back"), rel=0.005)


def test_it_recalls_and_no_longer_recalls_without_its_super_weight(specimen: Any) -> None:
    healthy = answer_questions(specimen)
    assert healthy > 0.9
    assert healthy == pytest.approx(specimen.figure("multiple-choice accuracy, healthy"), abs=0.011)
    with specimen.zeroed(*specimen.super_weight):
        broken = answer_questions(specimen)
    assert broken < 0.5
    assert broken == pytest.approx(specimen.figure("multiple-choice accuracy, super weight zeroed"), abs=0.021)


def test_stop_word_mass_is_the_card_s_healthy_and_broken(specimen: Any) -> None:
    healthy = weigh_stop_words(specimen)
    assert healthy == pytest.approx(specimen.figure("stop-word mass, healthy"), abs=0.005)
    with specimen.zeroed(*specimen.super_weight):
        broken = weigh_stop_words(specimen)
    assert broken == pytest.approx(specimen.figure("stop-word mass, super weight zeroed"), abs=0.01)
