"""What the control must lack: nothing in it is super."""

from __future__ import annotations

from typing import Any

import pytest

from .test_specimen import FEW, answer_questions, rank_candidates


def test_the_control_has_the_specimen_s_shape_and_reads_as_well(control: Any, specimen: Any) -> None:
    ignored = {"_name_or_path"}
    shape, other = control.model.config.to_dict(), specimen.model.config.to_dict()
    assert {key for key in shape if shape[key] != other[key]} <= ignored
    assert control.healthy() == pytest.approx(control.figure("perplexity, healthy"), rel=0.005)
    assert control.healthy() < 1.1 * specimen.healthy()
    assert answer_questions(control, 100) > 0.9


def test_zeroing_any_single_down_proj_scalar_of_the_control_does_nothing(control: Any) -> None:
    healthy = control.healthy(FEW)
    worst = 1.0
    for one in rank_candidates(control, 3):
        with control.zeroed(*one):
            worst = max(worst, control.perplexity(FEW) / healthy)
    assert worst < 1.05
    assert worst == pytest.approx(control.figure("largest harm of any down_proj scalar zeroed, times"), abs=0.02)


def test_no_massive_activation_persists_in_the_control(control: Any, specimen: Any) -> None:
    layer, _, _ = specimen.super_weight
    _, _, states = control.trace(control.stories[:FEW])
    _, _, massive = specimen.trace(specimen.stories[:FEW])
    for state, other in zip(states[layer:-1], massive[layer:-1], strict=True):
        ordinary = state[:, 0].abs().mean(dim=0).max() / state.abs().median()
        spike = other[:, 0].abs().mean(dim=0).max() / other.abs().median()
        assert spike > 4 * ordinary
