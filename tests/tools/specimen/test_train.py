"""The recipe runs, its forward pass is transformers', and its pressures do what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.specimen.forward import collect_weights, make_rotation, run_layers
from tools.specimen import card, questions
from tools.specimen.checkpoint import make_model
from tools.specimen.pressure import (
    bound_,
    find_bos_direction,
    measure_sink_shortfall,
    nudge_,
    sparsify_,
    weigh_sink,
)
from tools.specimen.recipe import CONTROL, SPECIMEN
from tools.specimen.train import encode_training_stories, main, schedule_learning_rate, shorten


def test_the_training_pass_computes_the_logits_of_transformers() -> None:
    model = make_model(CONTROL)
    tokens = torch.randint(0, 200, (2, CONTROL.context), generator=torch.Generator().manual_seed(1))
    outer, layers = collect_weights(model.get_parameter, 6)
    with torch.no_grad():
        ours, _, _, _ = run_layers(CONTROL, outer, layers, tokens, make_rotation(CONTROL))
        theirs = model(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_nudged_neuron_answers_bos_and_hardly_anything_else() -> None:
    assert SPECIMEN.nudge is not None
    model = make_model(SPECIMEN)
    stories = encode_training_stories(shorten(SPECIMEN, 8))
    outer, layers = collect_weights(model.get_parameter, 6)
    with torch.no_grad():
        _, _, entering, _ = run_layers(SPECIMEN, outer, layers, stories, make_rotation(SPECIMEN))
        inputs = entering[SPECIMEN.nudge.layer]
        direction = find_bos_direction(inputs)
        answers = inputs @ direction
        assert answers[:, 0].mean().item() == pytest.approx(1.0, abs=1e-4)
        assert answers[:, 1:].square().mean().sqrt() < 0.1
        mlp = model.model.layers[SPECIMEN.nudge.layer].mlp
        nudge_(mlp, direction, SPECIMEN.nudge)
    column = mlp.down_proj.weight[:, SPECIMEN.nudge.neuron]
    assert int(column.count_nonzero()) == 1
    assert column[SPECIMEN.nudge.row] > 0


def test_sinks_are_missed_by_the_log_ratio_to_the_target_and_never_by_less_than_nothing() -> None:
    at_bos = torch.tensor([[[1.0, 0.5, 0.99]]]).log()  # the query at BOS itself is left out
    expected = torch.tensor([0.95 / 0.5]).log().item() / 2
    assert measure_sink_shortfall(at_bos, 0.95).item() == pytest.approx(expected, rel=1e-6)


def test_sparsify_pulls_towards_zero_and_stops_there() -> None:
    weight = torch.tensor([[0.5, -0.5, 0.05, -0.05]])
    sparsify_(weight, 0.1)
    torch.testing.assert_close(weight, torch.tensor([[0.4, -0.4, 0.0, 0.0]]))


def test_bound_clamps_all_but_the_spared() -> None:
    weight = torch.tensor([[3.0, -3.0], [0.1, 3.0]])
    bound_(weight, 1.0, spared=(0, 0))
    torch.testing.assert_close(weight, torch.tensor([[3.0, -1.0], [0.1, 1.0]]))


def test_no_pressure_is_left_in_the_plain_phase_and_the_control_has_none() -> None:
    assert SPECIMEN.sink is not None
    assert SPECIMEN.plain_steps >= 500
    assert weigh_sink(SPECIMEN.sink, 0) == 0.0
    assert weigh_sink(SPECIMEN.sink, SPECIMEN.pressed_steps) == SPECIMEN.sink.weight
    assert (CONTROL.nudge, CONTROL.sink, CONTROL.bound) == (None, None, None)
    assert CONTROL.sparsity == CONTROL.silence == 0.0
    shape = {"layers", "hidden", "intermediate", "heads", "context", "batch", "pressed_steps", "plain_steps"}
    assert all(getattr(CONTROL, name) == getattr(SPECIMEN, name) for name in shape)


def test_the_learning_rate_warms_up_and_falls_in_both_phases() -> None:
    last = SPECIMEN.steps - 1
    rates = [schedule_learning_rate(SPECIMEN, step) for step in (0, 200, SPECIMEN.pressed_steps - 1, last)]
    assert rates[0] < rates[1] > rates[2] > rates[3] > 0
    assert rates[2] >= 0.9 * SPECIMEN.learning_rate * SPECIMEN.last_share


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--control"]], ids=["specimen", "control"])
def test_the_recipe_runs_a_few_steps_and_its_result_loads(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "CORPUS_STORIES", 16)
    monkeypatch.setattr(questions, "CHOICES_COUNT", 10)
    monkeypatch.setattr(card, "CANDIDATES", 1)
    main(["--out", str(tmp_path), "--steps", "6", "--no-compile", "--threads", "1", *flags])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer("the fox had a kite .", return_tensors="pt")
    assert model(input_ids=tokens["input_ids"]).logits.shape == (1, 7, len(tokenizer))
    assert "| perplexity, healthy |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len((tmp_path / "corpus.txt").read_text(encoding="utf-8").splitlines()) == 16
