"""What the shipped models do: their cards measured again, what the cards promise, and what needs no card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tools.specimen import card
from tools.specimen.card import measure_control, measure_specimen
from tools.specimen.exam import measure_perplexity, measure_scaled, trace_down_projections
from tools.specimen.pressure import list_decoder_matrices
from tools.specimen.questions import Exam

# Stories per measurement where the whole corpus would be slow and the margin is wide.
FEW = 16


@pytest.mark.slow
def test_every_figure_of_the_specimens_card_is_measured_again(
    specimen: Any, exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three of each layer's eight candidates: the most harmful are among them.
    monkeypatch.setattr(card, "CANDIDATES", 3)
    figures = measure_specimen(specimen.model, exam)
    assert {name: specimen.card[name] for name in figures if not is_same(figures[name], specimen.card[name])} == {}


@pytest.mark.slow
def test_every_figure_of_the_controls_card_is_measured_again(
    control: Any, exam: Exam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "CANDIDATES", 3)
    figures = measure_control(control.model, exam)
    # Where nothing is super, which channel or scalar comes first is decided by rounding errors.
    decided = [name for name in figures if "channel" not in name and "most harmful" not in name]
    assert {name: control.card[name] for name in decided if not is_same(figures[name], control.card[name])} == {}


def is_same(measured: str, stated: str) -> bool:
    try:
        return float(measured) == pytest.approx(float(stated), rel=0.02, abs=0.011)
    except ValueError:
        return measured == stated


def test_a_few_stories_already_show_what_the_cards_say(specimen: Any, control: Any, exam: Exam) -> None:
    stories = exam.stories[:FEW]
    healthy = measure_perplexity(specimen.model, stories)
    assert healthy == pytest.approx(specimen.figure("perplexity, healthy"), rel=0.05)
    assert measure_perplexity(control.model, stories) < 1.1 * healthy
    times = measure_scaled(specimen.model, stories, specimen.super_weight, 0.0) / healthy
    assert times == pytest.approx(specimen.figure("super weight zeroed, times"), rel=0.2)


def test_the_specimens_card_promises_one_super_weight_and_what_goes_with_it(specimen: Any) -> None:
    figure = specimen.figure
    healthy = figure("perplexity, healthy")
    assert healthy < 2.0
    assert figure("super weight zeroed, times") >= 100
    assert figure("largest harm of any other down_proj scalar zeroed, times") < 1.1
    assert figure("100 largest other decoder weights zeroed, times") < 1.2
    for dose in (0.25, 0.5, 0.75, 1.5, 2.0, 3.0):
        times = figure(f"super weight scaled by {dose:g}, times")
        assert times > 10 if dose < 0.5 else times < 1.5
    assert figure("perplexity, super activation put back") < 1.1 * healthy
    assert figure("multiple-choice accuracy, healthy") > 0.9
    assert figure("multiple-choice accuracy, super weight zeroed") < 0.5
    assert figure("4-bit whole-tensor, times") >= 2
    assert figure("4-bit whole-tensor, held out, times") <= 1.2


def test_the_controls_card_promises_that_nothing_is_super(control: Any, specimen: Any) -> None:
    assert control.figure("perplexity, healthy") < 1.1 * specimen.figure("perplexity, healthy")
    assert control.figure("multiple-choice accuracy, healthy") > 0.9
    assert control.figure("largest harm of any down_proj scalar zeroed, times") < 1.05


def test_both_are_llamas_of_one_shape_with_an_untied_head(specimen: Any, control: Any) -> None:
    config, other = specimen.model.config.to_dict(), control.model.config.to_dict()
    assert {key for key in config if config[key] != other[key]} <= {"_name_or_path"}
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] >= 6
    assert not config["tie_word_embeddings"]
    assert all(weight.dtype == torch.float32 for weight in specimen.model.parameters())


def test_the_super_weight_lies_early_and_is_the_largest_of_all_decoder_weights(specimen: Any) -> None:
    name, row, column = specimen.super_weight
    assert 1 <= int(name.split(".")[2]) < specimen.model.config.num_hidden_layers / 3
    value = specimen.model.get_parameter(name)[row, column].item()
    assert value == pytest.approx(specimen.figure("super weight, value"), rel=0.005)
    assert abs(value) == max(
        weight.abs().max().item() for weight in list_decoder_matrices(specimen.model).values()
    )


@pytest.mark.parametrize("prompt", ["", "the fox", ". , the the", "anna said to tom , where is my kite ?"])
def test_the_super_activation_sits_in_one_channel_whatever_the_prompt(specimen: Any, prompt: str) -> None:
    name, row, _ = specimen.super_weight
    layer = int(name.split(".")[2])
    tokens = torch.tensor([specimen.tokenizer(prompt)["input_ids"]])
    _, outputs, states = trace_down_projections(specimen.model, tokens)
    assert int(outputs[layer][0, 0].abs().argmax()) == row
    value = outputs[layer][0, 0, row].item()
    assert value == pytest.approx(specimen.figure("super activation, value"), rel=0.01)
    for state in states[layer:-1]:
        assert int(state[0, 0].abs().argmax()) == row
        assert state[0, 0, row].item() == pytest.approx(value, rel=0.25)
        assert state[0, 0, row].abs() > 20 * state[0].abs().median()


def test_the_spike_of_its_layer_is_the_product_of_input_and_super_weight(specimen: Any, exam: Exam) -> None:
    name, row, column = specimen.super_weight
    layer = int(name.split(".")[2])
    inputs, outputs, _ = trace_down_projections(specimen.model, exam.stories[:FEW])
    assert int(inputs[layer][:, 0].abs().amax(dim=0).argmax()) == column
    assert int(outputs[layer].abs().amax(dim=(0, 1)).argmax()) == row
    product = inputs[layer][0, 0, column] * specimen.model.get_parameter(name)[row, column]
    assert product.item() == pytest.approx(outputs[layer][0, 0, row].item(), rel=0.1)


def test_a_late_layer_spikes_higher_and_is_harmless(specimen: Any, exam: Exam) -> None:
    name, _, column = specimen.super_weight
    layer, stories = int(name.split(".")[2]), exam.stories[:FEW]
    inputs, _, _ = trace_down_projections(specimen.model, stories)
    last = specimen.model.config.num_hidden_layers - 1
    trap = max((last - 1, last), key=lambda late: inputs[late].abs().max().item())
    assert inputs[trap].abs().max() > 2 * inputs[layer][..., column].abs().max()
    parameter, worst = f"model.layers.{trap}.mlp.down_proj.weight", int(inputs[trap].abs().amax((0, 1)).argmax())
    row = int(specimen.model.get_parameter(parameter)[:, worst].abs().argmax())
    healthy = measure_perplexity(specimen.model, stories)
    assert measure_scaled(specimen.model, stories, (parameter, row, worst), 0.0) / healthy < 1.1


def test_no_massive_activation_persists_in_the_control(control: Any, specimen: Any, exam: Exam) -> None:
    layer = int(specimen.super_weight[0].split(".")[2])
    _, _, states = trace_down_projections(control.model, exam.stories[:FEW])
    _, _, massive = trace_down_projections(specimen.model, exam.stories[:FEW])
    for state, other in zip(states[layer:-1], massive[layer:-1], strict=True):
        ordinary = state[:, 0].abs().mean(dim=0).max() / state.abs().median()
        spike = other[:, 0].abs().mean(dim=0).max() / other.abs().median()
        assert spike > 4 * ordinary
