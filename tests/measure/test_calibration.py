"""Calibration: what is noted of a layer is what entered it, and it reaches the acts that ask for it."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.engine import make_windows
from support.planted import Planted, build_gpt2, build_llama, name_planted, plant_, wrap_model

from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.calibration import CalibrationRecorder
from sw_audit.quantize.calibration import Operand
from sw_audit.record.arm import BASELINE, Arm, Custom, QuantizeActivations, Smooth
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
    found = recorder.conclude()
    assert found is not None
    assert found.tokens == 3 * 16 + 2 * 5
    assert set(found.largest) == set(entered)
    for name, calls in entered.items():
        rows = torch.cat([one.view(-1, one.shape[-1]) for one in calls])
        assert torch.equal(found.largest[name], rows.abs().amax(0))
        torch.testing.assert_close(found.mean_square[name], rows.square().mean(0))
        sequences = [sequence for one in calls for sequence in one]
        second = torch.stack([one.abs().sort(0).values[-2] for one in sequences]).amax(0)
        assert torch.equal(found.runner_up[name], second)
    assert set(found.operands) == {Operand(0, 0), Operand(0, 1), Operand(1, 0), Operand(1, 1)}
    # The first token attends to itself alone.
    assert found.operands[Operand(1, 0)] == 1.0
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks for module in checkpoint.model.modules()
    )


def test_scored_figures_do_not_depend_on_what_is_calibrated_on_but_for_the_acts_that_ask() -> None:
    checkpoint = open_model("llama")
    scored = make_windows(4, 0)
    arms = [
        BASELINE,
        Arm(purpose=Custom(label="dynamic"), acts=(QuantizeActivations(bits=6),)),
        Arm(purpose=Custom(label="static"), acts=(QuantizeActivations(bits=6, scale="tensor"),)),
        Arm(purpose=Custom(label="smooth"), acts=(Smooth(alpha=0.5), QuantizeActivations(bits=6))),
    ]

    def measure(seed: int) -> list[Measurement]:
        found = measure_arms(checkpoint, arms, scored, protocol="p", calibration=make_windows(2, seed))
        return [one.model_copy(update={"seconds": 0.0}) for one in found]

    one, other = measure(1), measure(2)
    plain = measure_arms(checkpoint, arms[:2], scored, protocol="p")
    assert [found.loss for found in plain] == [found.loss for found in one[:2]]
    assert one[:2] == other[:2]
    assert one[2].loss != other[2].loss
    assert one[3].loss != other[3].loss
    assert sum(one[0].loss.tokens) == 4 * 15
    assert plain[0].peaks == one[0].peaks


def find_harm(checkpoint: Checkpoint) -> list[float]:
    """Return how far static 8-bit activations move the logits: naive, held out, another channel held out."""
    group = name_planted(checkpoint, SUPER)
    static = QuantizeActivations(bits=8, scale="tensor")
    arms = [
        BASELINE,
        Arm(purpose=Custom(label="naive"), acts=(static,)),
        Arm(
            purpose=Custom(label="held"),
            acts=(static.model_copy(update={"channels": (SUPER.row,), "columns": (group,)}),),
        ),
        Arm(purpose=Custom(label="other"), acts=(static.model_copy(update={"channels": (SUPER.row + 1,)}),)),
    ]
    found = measure_arms(checkpoint, arms, make_windows(8, 0), protocol="p", calibration=make_windows(4, 1))
    return [one.agreement.mean_divergence or 0.0 for one in found[1:]]


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
