"""Calibration: what is noted of a layer is what entered it, and it reaches the acts that ask for it."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.engine import make_arm, make_windows
from support.planted import Planted, build_gpt2, build_llama, name_planted, plant_, wrap_model

from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.calibration import CalibrationRecorder, find_top_two
from sw_audit.quantize.calibration import Operand
from sw_audit.record.arm import BASELINE, QuantizeActivations, Smooth
from sw_audit.record.measurement import Measurement

BUILDERS = {"llama": build_llama, "gpt2": build_gpt2}
SUPER = Planted(layer=2, row=17, column=90)


def open_model(family: str, *, planted: bool = True) -> Checkpoint:
    checkpoint = wrap_model(BUILDERS[family](layers=4))
    if planted:
        plant_(checkpoint, SUPER)
    return checkpoint


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_what_is_noted_is_worked_out_from_what_entered(family: str) -> None:
    checkpoint = open_model(family)
    layer = checkpoint.layers[1]
    batches = [make_windows(3, 0).token_ids, make_windows(2, 1, length=5).token_ids]
    entered: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, given, name=matrix.parameter: entered.setdefault(name, []).append(given[0].clone())
        )
        for matrix, module in list_projections(layer.module, layer.name)
    ]
    recorder = CalibrationRecorder(layer)
    assert recorder.conclude() is None
    with torch.no_grad():
        for token_ids in batches:
            with recorder.watching():
                checkpoint.model(input_ids=token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    calibration = recorder.conclude()
    assert calibration.tokens == 3 * 16 + 2 * 5
    assert set(calibration.largest) == set(entered)
    for name, calls in entered.items():
        rows = torch.cat([call.view(-1, call.shape[-1]) for call in calls])
        assert torch.equal(calibration.largest[name], rows.abs().amax(0))
        shares = rows.square() / rows.square().sum(1, keepdim=True)
        torch.testing.assert_close(calibration.mean_share[name], shares.mean(0))
        sequences = [sequence for call in calls for sequence in call]
        second = torch.stack([sequence.abs().sort(0).values[-2] for sequence in sequences]).amax(0)
        assert torch.equal(calibration.runner_up[name], second)
    assert set(calibration.operands) == {Operand(0, 0), Operand(0, 1), Operand(1, 0), Operand(1, 1)}
    # The first token attends to itself alone.
    assert calibration.operands[Operand(1, 0)] == 1.0
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks for module in checkpoint.model.modules()
    )


def test_scored_figures_do_not_depend_on_what_is_calibrated_on_but_for_the_acts_that_ask() -> None:
    checkpoint = open_model("llama")
    scored = make_windows(4, 0)
    arms = [
        BASELINE,
        make_arm(QuantizeActivations(bits=6), label="dynamic"),
        make_arm(QuantizeActivations(bits=6, scale="tensor"), label="static"),
        make_arm(Smooth(alpha=0.5), QuantizeActivations(bits=6), label="smooth"),
    ]

    def measure(seed: int) -> list[Measurement]:
        measured = measure_arms(checkpoint, arms, scored, protocol="p", calibration=make_windows(2, seed))
        return [measurement.model_copy(update={"seconds": 0.0}) for measurement in measured]

    first, second = measure(1), measure(2)
    plain = measure_arms(checkpoint, arms[:2], scored, protocol="p")
    assert [measurement.loss for measurement in plain] == [measurement.loss for measurement in first[:2]]
    assert first[:2] == second[:2]
    assert first[2].loss != second[2].loss
    assert first[3].loss != second[3].loss
    assert sum(first[0].loss.tokens) == 4 * 15
    assert plain[0].peaks == first[0].peaks


def find_harm(checkpoint: Checkpoint) -> list[float]:
    """Return how far static 8-bit activations move the logits: naive, held out, another channel held out."""
    group = name_planted(checkpoint, SUPER)
    static = QuantizeActivations(bits=8, scale="tensor")
    arms = [
        BASELINE,
        make_arm(static, label="naive"),
        make_arm(static.model_copy(update={"channels": (SUPER.row,), "columns": (group,)}), label="held"),
        make_arm(static.model_copy(update={"channels": (SUPER.row + 1,)}), label="other"),
    ]
    measured = measure_arms(checkpoint, arms, make_windows(8, 0), protocol="p", calibration=make_windows(4, 1))
    return [measurement.agreement.mean_divergence or 0.0 for measurement in measured[1:]]


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_a_planted_super_activation_ruins_a_shared_scale_and_holding_it_out_heals(family: str) -> None:
    healed, unhealed = [], []
    for seed in range(3):
        checkpoint = wrap_model(BUILDERS[family](layers=6, seed=seed))
        unplanted = find_harm(checkpoint)[0]
        plant_(checkpoint, SUPER)
        naive, held, other = find_harm(checkpoint)
        assert naive > 20 * unplanted
        assert held < 0.7 * naive
        healed.append(held / naive)
        unhealed.append(other / naive)
    assert statistics.median(healed) < 0.15
    # A neighbouring channel in its place heals nothing.
    assert statistics.median(unhealed) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_without_a_super_activation_holding_the_same_scalars_out_neither_heals_nor_harms(family: str) -> None:
    naive, held, _ = find_harm(open_model(family, planted=False))
    assert held == pytest.approx(naive, rel=0.1)


@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_the_two_largest_are_those_of_a_sort_also_where_they_are_equal(tokens: int) -> None:
    sequences = torch.randint(0, 4, (5, tokens, 11), generator=torch.Generator().manual_seed(tokens)).float()
    ordered = sequences.sort(1, descending=True).values
    largest, second = find_top_two(sequences)
    assert torch.equal(largest, ordered[:, 0].amax(0))
    assert torch.equal(second, ordered[:, 1].amax(0) if tokens > 1 else torch.zeros(11))
