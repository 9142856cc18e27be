"""Trials: what zeroing scalars costs is what it costs in a model that was changed for good."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import find_parameter
from sw_audit.checks.statistics import bound_perplexity_ratio
from sw_audit.corpus.windows import Windows, cut_windows
from sw_audit.critical.trials import Trials, Tried, zeroing
from sw_audit.policy.policy import Intervention
from sw_audit.testing.families import VOCABULARY, build_random_model, wrap_model


def draw_windows(count: int = 4, length: int = 10) -> Windows:
    chance = torch.Generator().manual_seed(1)
    return cut_windows(
        torch.randint(3, VOCABULARY, (count * length,), generator=chance).tolist(), length, None, 1, count
    )


def make_tried(checkpoint: Checkpoint, name: str, *index: int) -> Tried:
    parameter = find_parameter(checkpoint, name)
    assert parameter is not None
    return Tried(parameter, index, parameter.read(index))


@torch.no_grad()
def measure_nats(checkpoint: Checkpoint, windows: Windows) -> list[float]:
    rows = windows.token_ids
    logits = checkpoint.model(input_ids=rows).logits[:, :-1]
    losses = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
    scored = torch.arange(1, rows.shape[1]) >= windows.first_scored[:, None]
    return (losses * scored).sum(1).tolist()


def test_zeroing_costs_what_it_costs_in_a_model_that_was_changed() -> None:
    checkpoint, windows = wrap_model(build_random_model("gemma", 2)), draw_windows()
    gain = make_tried(checkpoint, "model.norm.weight", 7)
    entry = make_tried(checkpoint, "model.layers.1.mlp.down_proj.weight", 3, 9)
    both, trials = zeroing([gain, entry]), Trials(checkpoint, windows)
    trials.measure([both], 4)
    before = measure_nats(checkpoint, windows)
    checkpoint.model.model.norm.weight[7] = -1.0  # gemma multiplies by 1 + w
    checkpoint.model.model.layers[1].mlp.down_proj.weight[3, 9] = 0.0
    after = measure_nats(checkpoint, windows)
    assert trials.cost(both) == pytest.approx((sum(after) - sum(before)) / windows.scored, abs=1e-6)
    tokens = [10 - first for first in windows.first_scored.tolist()]
    ratio, low, high = bound_perplexity_ratio(after, before, tokens, 0.9)
    effect = trials.effect(both, 0.9)
    assert (effect.ratio, effect.low, effect.high) == pytest.approx((ratio, low, high), rel=1e-5)
    assert effect.windows == 4


def test_a_window_is_measured_once() -> None:
    checkpoint, windows = wrap_model(build_random_model("llama", 2)), draw_windows()
    trial = zeroing([make_tried(checkpoint, "model.norm.weight", 7)])
    trials = Trials(checkpoint, windows)
    trials.measure([trial], 2)
    assert trials.tokens == 2 * 2 * 10
    trials.measure([trial], 4)
    trials.measure([trial], 4)
    assert trials.tokens == 2 * 4 * 10
    assert (trials.questions, trials.count_windows(trial)) == (1, 4)
    whole = Trials(checkpoint, windows)
    whole.measure([trial], 4)
    assert whole.cost(trial) == pytest.approx(trials.cost(trial), abs=1e-9)


def test_what_is_not_finite_costs_infinitely_much_and_has_no_ratio() -> None:
    checkpoint, windows = wrap_model(build_random_model("llama", 2)), draw_windows()
    gain = make_tried(checkpoint, "model.norm.weight", 3)
    trials = Trials(checkpoint, windows)
    broken = frozenset({(Overflowing(gain.parameter, gain.index, gain.value), "negate")})
    trials.measure([broken], 2)
    assert math.isinf(trials.cost(broken))
    assert trials.effect(broken, 0.95).ratio is None


class Overflowing(Tried):
    """A gain that is set so high that products overflow."""

    def change(self, intervention: Intervention) -> float:
        return 3.4e38 if intervention == "negate" else 0.0


def test_what_is_masked_is_told_over_what_masks_it() -> None:
    checkpoint, windows = wrap_model(build_random_model("llama", 2)), draw_windows()
    first, second = (make_tried(checkpoint, "model.norm.weight", place) for place in (7, 8))
    trials, both = Trials(checkpoint, windows), zeroing([first, second])
    trials.measure([both, zeroing([first])], 4)
    expected = trials.cost(both) - trials.cost(zeroing([first]))
    assert trials.cost(both, zeroing([first])) == pytest.approx(expected, abs=1e-12)
    assert trials.effect(both, 0.95, zeroing([first])).ratio == pytest.approx(math.exp(expected))


def test_with_fewer_windows_than_give_one_there_is_no_interval() -> None:
    checkpoint, windows = wrap_model(build_random_model("llama", 2)), draw_windows()
    trial, trials = zeroing([make_tried(checkpoint, "model.norm.weight", 7)]), Trials(checkpoint, windows)
    trials.measure([trial], 3)
    effect = trials.effect(trial, 0.95, minimum=4)
    assert effect.ratio is not None
    assert (effect.low, effect.high) == (None, None)


def test_interventions_set_what_the_layer_applies() -> None:
    checkpoint = wrap_model(build_random_model("gemma", 2))
    norm = checkpoint.model.model.norm.weight
    with torch.no_grad():
        norm.copy_(torch.arange(64.0))
    gain = make_tried(checkpoint, "model.norm.weight", 5)  # multiplies by 6
    told = [gain.change(one) for one in ("zero", "one", "negate", "median")]
    assert told == [-1.0, 0.0, -7.0, 31.0]
    matrix = checkpoint.model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        matrix[2, :3] = torch.tensor([1.0, 2.0, 3.0])
        matrix[2, 3:] = 2.0
    entry = make_tried(checkpoint, "model.layers.0.mlp.down_proj.weight", 2, 0)
    assert [entry.change(one) for one in ("zero", "negate", "median")] == [0.0, -1.0, 2.0]
