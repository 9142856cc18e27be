"""Smoothing alone changes a model by rounding errors only, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from support.engine import make_arm
from support.planted import Planted, plant_, wrap_model

from sw_audit.arms.apply import LayerContext, applied_arm
from sw_audit.arms.smoothing import smoothed
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import CorpusError
from sw_audit.measure.calibration import CalibrationRecorder
from sw_audit.quantize.activations import find_smoothing_scales
from sw_audit.quantize.calibration import Calibration
from sw_audit.record.arm import QuantizeActivations, Smooth
from sw_audit.testing.families import DENSE, build_random_model

TOKEN_IDS = torch.tensor([[1, 5, 7, 11, 30, 42], [1, 9, 8, 50, 3, 4]])
# Nothing that enters a projection comes straight from a norm, or the norm has no weights.
UNSMOOTHABLE = {"olmo", "olmo2", "olmo3"}


def open_planted(family: str) -> Checkpoint:
    checkpoint = wrap_model(build_random_model(family, layers=2))
    plant_(checkpoint, Planted(layer=0, row=17, column=90))
    return checkpoint


@torch.no_grad()
def calibrate(checkpoint: Checkpoint, depth: int) -> Calibration:
    recorder = CalibrationRecorder(checkpoint.layers[depth])
    with recorder.watching():
        checkpoint.model(input_ids=TOKEN_IDS, use_cache=False)
    return recorder.conclude()


@torch.no_grad()
def run(checkpoint: Checkpoint) -> torch.Tensor:
    logits: torch.Tensor = checkpoint.model(input_ids=TOKEN_IDS, use_cache=False).logits
    return logits


@pytest.mark.parametrize("family", DENSE)
def test_smoothing_alone_changes_logits_by_rounding_errors_only(family: str) -> None:
    checkpoint = open_planted(family)
    plain = run(checkpoint)
    layer = checkpoint.layers[1]
    calibration = calibrate(checkpoint, 1)
    before = {matrix.parameter: matrix.weight.clone() for matrix in layer.matrices}
    with (
        torch.no_grad(),
        applied_arm(make_arm(Smooth(alpha=0.85), label="s"), layer, calibration),
    ):
        after = {matrix.parameter: matrix.weight for matrix in layer.matrices}
        changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
        smooth = run(checkpoint)
    torch.testing.assert_close(smooth, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    # The test can fail: something was smoothed, where there is something to smooth.
    assert changed == {name for feed in calibration.feeds if feed.weighted for name in feed.parameters}
    assert bool(changed) is (family not in UNSMOOTHABLE)
    for matrix in layer.matrices:
        assert torch.equal(matrix.weight, before[matrix.parameter])
    assert torch.equal(run(checkpoint), plain)


@pytest.mark.parametrize(
    ("family", "groups"),
    [
        ("llama", [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]),
        ("gpt2", [{"c_attn"}, {"c_fc"}]),
        ("opt", [{"q_proj", "k_proj", "v_proj"}, {"fc1"}]),
        # One norm feeds both blocks.
        ("gptj", [{"q_proj", "k_proj", "v_proj", "fc_in"}]),
        ("phi", [{"q_proj", "k_proj", "v_proj", "fc1"}]),
        ("gpt_neox", [{"query_key_value"}, {"dense_h_to_4h"}]),
        ("bloom", [{"query_key_value"}, {"dense_h_to_4h"}]),
        ("gemma2", [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]),
    ],
)
def test_each_norm_is_smoothed_together_with_all_that_it_feeds(family: str, groups: list[set[str]]) -> None:
    calibration = calibrate(open_planted(family), 1)
    smoothed_together = [
        {name.split(".")[-2] for name in feed.parameters} for feed in calibration.feeds if feed.weighted
    ]
    assert smoothed_together == groups


def test_a_norm_without_weights_is_seen_and_not_smoothed() -> None:
    calibration = calibrate(open_planted("olmo"), 1)
    assert [feed.weighted for feed in calibration.feeds] == [False, False]
    assert calibrate(open_planted("olmo2"), 1).feeds == ()


def test_what_enters_is_divided_by_the_scales_that_the_weights_are_multiplied_by() -> None:
    checkpoint = open_planted("llama")
    layer = checkpoint.layers[1]
    calibration = calibrate(checkpoint, 1)
    q, k, v = (layer.matrices[place] for place in range(3))
    expected = find_smoothing_scales(calibration.largest[q.parameter], [q.weight, k.weight, v.weight], 0.5)
    weight = q.weight.clone()
    context = LayerContext(layer, calibration)
    with smoothed(Smooth(alpha=0.5), context):
        after = context.calibration
        torch.testing.assert_close(q.weight, weight * expected)
        seen = calibrate(checkpoint, 1)
    for figures in ("largest", "runner_up"):
        torch.testing.assert_close(getattr(after, figures), getattr(seen, figures), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.largest[q.parameter], calibration.largest[q.parameter])


def test_static_ranges_are_those_of_the_smoothed_activations() -> None:
    checkpoint = open_planted("llama")
    layer = checkpoint.layers[1]
    calibration = calibrate(checkpoint, 1)
    plain = run(checkpoint)
    acts = (Smooth(alpha=0.5), QuantizeActivations(bits=8, scale="tensor"))
    with torch.no_grad(), applied_arm(make_arm(*acts, label="s"), layer, calibration):
        right = run(checkpoint)
    # As if nobody had told the ranges that the activations are smaller or larger now.
    unaware = applied_arm(make_arm(*acts[1:], label="s"), layer, calibration)
    with torch.no_grad(), smoothed(acts[0], LayerContext(layer, calibration)), unaware:
        wrong = run(checkpoint)
    assert float((right - plain).norm()) < 0.5 * float((wrong - plain).norm())


def test_without_calibration_text_there_is_nothing_to_smooth_by() -> None:
    checkpoint = open_planted("llama")
    arm = make_arm(Smooth(alpha=0.85), label="s")
    with pytest.raises(CorpusError, match="no calibration text"), applied_arm(arm, checkpoint.layers[0]):
        pass


def test_nothing_is_left_after_an_exception() -> None:
    checkpoint = open_planted("gpt2")
    plain, calibration = run(checkpoint), calibrate(checkpoint, 1)
    interrupted = pytest.raises(RuntimeError, match="power cut")
    with interrupted, smoothed(Smooth(alpha=0.5), LayerContext(checkpoint.layers[1], calibration)):
        raise RuntimeError("power cut")
    assert all(not module._forward_pre_hooks for module in checkpoint.model.modules())
    assert torch.equal(run(checkpoint), plain)
