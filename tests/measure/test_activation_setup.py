"""What is found out before activations are quantized: whether they can be, what is smoothed, by which alpha."""

from __future__ import annotations

import pytest
import torch
from support.engine import make_arm
from support.planted import Planted, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.activation_setup import prepare_activations
from sw_audit.measure.arms import measure_arms
from sw_audit.record.arm import BASELINE, Arm, QuantizeActivations, Smooth
from sw_audit.testing.families import build_random_model

PROMPT = (1, 5, 7, 11, 30)


def make_windows(count: int, seed: int = 5, length: int = 12) -> Windows:
    token_ids = torch.randint(3, 101, (count, length), generator=torch.Generator().manual_seed(seed))
    token_ids[:, 0] = 1
    return Windows(token_ids, torch.ones(count, dtype=torch.long), length - 1, 1)


def list_trials(*alphas: float, bits: int = 4) -> dict[str, tuple[Arm, ...]]:
    return {
        f"w16a{bits}": tuple(
            make_arm(Smooth(alpha=alpha), QuantizeActivations(bits=bits), label=f"{alpha:g}") for alpha in alphas
        )
    }


def open_planted() -> Checkpoint:
    checkpoint = wrap_model(build_llama(layers=3))
    plant_(checkpoint, Planted(layer=1, row=17, column=90))
    return checkpoint


@pytest.mark.parametrize(
    ("family", "reason", "smoothed", "projections"),
    [
        ("llama", None, 10, 14),
        ("gpt2", None, 4, 8),
        ("gptj", None, 8, 12),
        ("olmo", "its norms have no weights to fold scales into", 0, 14),
        ("olmo2", "no projection reads a norm's output as it is", 0, 14),
    ],
)
def test_it_is_known_what_smoothquant_can_smooth(
    family: str, reason: str | None, smoothed: int, projections: int
) -> None:
    checkpoint = wrap_model(build_random_model(family, layers=2))
    setup = prepare_activations(checkpoint, PROMPT, make_windows(4), list_trials(0.5) if reason else {})
    assert setup.unroundable is None
    assert (setup.unsmoothable, setup.smoothed, setup.projections) == (reason, smoothed, projections)
    assert setup.searches == ()
    assert (setup.calibration_windows, setup.calibration_tokens) == (4, 48)


def test_a_model_with_experts_is_looked_at_no_further() -> None:
    checkpoint = wrap_model(build_random_model("mixtral", layers=1))
    setup = prepare_activations(checkpoint, PROMPT, make_windows(4), list_trials(0.5))
    assert setup.unroundable is not None
    assert (setup.projections, setup.calibration_windows) == (0, 0)


@pytest.mark.parametrize(("count", "length"), [(8, 12), (11, 40)])
def test_the_alpha_is_chosen_that_changes_every_fourth_window_least_with_ranges_of_the_others(
    count: int, length: int
) -> None:
    """Of more and longer windows it is the first eight, and their first 32 tokens."""
    checkpoint = open_planted()
    calibration = make_windows(count, length=length)
    trials = list_trials(0.0, 0.3, 0.6, 0.9)
    [search] = prepare_activations(checkpoint, PROMPT, calibration, trials).searches
    chosen, others = [1, 5], [0, 2, 3, 4, 6, 7]
    arms = trials["w16a4"]
    expected = measure_arms(
        checkpoint,
        [BASELINE, *arms],
        Windows(calibration.token_ids[chosen, :32], calibration.first_scored[chosen], 11, 1),
        protocol="p",
        calibration=Windows(calibration.token_ids[others, :32], calibration.first_scored[others], 11, 1),
    )
    divergences = [measurement.agreement.mean_divergence for measurement in expected[1:]]
    assert [trial.divergence for trial in search.trials] == divergences
    assert [trial.nats for trial in search.trials] == [measurement.loss.mean_nats for measurement in expected[1:]]
    assert [trial.alpha for trial in search.trials] == [0.0, 0.3, 0.6, 0.9]
    assert len(set(divergences)) == 4
    assert (
        search.chosen
        == min(
            (value, trial.alpha)
            for value, trial in zip(divergences, search.trials, strict=True)
            if value is not None
        )[1]
    )


@pytest.mark.parametrize("count", [0, 1])
def test_with_too_little_text_nothing_is_searched(count: int) -> None:
    calibration = make_windows(count) if count else None
    setup = prepare_activations(open_planted(), PROMPT, calibration, list_trials(0.5, 0.85))
    assert setup.searches == ()
    assert setup.unsmoothable is None
    assert setup.calibration_windows == count


def test_an_alpha_that_is_not_finite_is_not_chosen() -> None:
    checkpoint = open_planted()
    with torch.no_grad():
        checkpoint.model.lm_head.weight.fill_(float("inf"))
    [search] = prepare_activations(checkpoint, PROMPT, make_windows(4), list_trials(0.5, 0.85)).searches
    assert search.chosen is None
    assert [(trial.nats, trial.divergence) for trial in search.trials] == [(None, None)] * 2


def test_the_model_is_as_it_was() -> None:
    checkpoint = open_planted()
    token_ids = make_windows(2).token_ids
    with torch.no_grad():
        before = checkpoint.model(input_ids=token_ids, use_cache=False).logits
        prepare_activations(checkpoint, PROMPT, make_windows(4), list_trials(0.5, 0.85))
        assert torch.equal(checkpoint.model(input_ids=token_ids, use_cache=False).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in checkpoint.model.modules())
