"""Planted models are what they say: the truth about them holds by intervention, and a number decides all of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from sw_audit.locate.locator import locate_super_weights
from sw_audit.record.location import Outcome
from sw_audit.testing import (
    PlantedModel,
    build_planted_model,
    draw_design,
    draw_planted_model,
    make_design,
    planted_models,
)
from sw_audit.testing.planted import QUIET
from sw_audit.testing.planting import observe

FEW = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def spike(planted: PlantedModel, row: int) -> float:
    """Return what the residual stream holds two layers from the end, where the super activation sits."""
    design = planted.design
    return float(observe(planted.checkpoint, design.prompt).residual[-3, design.position, row])


@FEW
@given(planted_models(families=["llama", "gpt2", "falcon", "gemma2"], layers=(4, 8)))
def test_whatever_is_drawn_the_locator_names_the_truth(planted: PlantedModel) -> None:
    location = locate_super_weights(planted.checkpoint, planted.design.text)
    assert set(location.addresses) == planted.super_weights
    assert (location.outcome is Outcome.LOCATED) == bool(planted.super_weights)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "olmo2", "gpt_oss", "qwen2_moe"])
def test_zeroing_the_truth_removes_the_spike(family: str) -> None:
    design = make_design(
        family=family, layers=6, dtype="float32", start="bos", shape="grid", traps=("late", "inert"), seed=3
    )
    planted = build_planted_model(design)
    rows = {address.row for address in planted.super_weights}
    before = {row: spike(planted, row) for row in rows}
    by_place = {
        (down.parameter, down.expert): down
        for layer in planted.checkpoint.layers
        for down in layer.down_projections
    }
    with torch.no_grad():
        for address in planted.super_weights:
            by_place[address.parameter, address.expert].weight[address.row, address.column] = 0.0
    for row in rows:
        assert abs(spike(planted, row)) < abs(before[row]) / 4


def test_ordinary_weights_on_a_super_weights_column_are_quiet() -> None:
    design = make_design(family="llama", layers=6, dtype="float32", start="bos", shape="one", traps=(), seed=11)
    planted = build_planted_model(design)
    [address] = planted.super_weights
    column = planted.checkpoint.matrix(address.parameter).weight[:, address.column]
    others = torch.cat([column[: address.row], column[address.row + 1 :]])
    assert float(others.std()) <= float(column[address.row].abs()) / QUIET * 1.01


def test_a_number_decides_everything() -> None:
    first, again = draw_planted_model(17), draw_planted_model(17)
    assert first.design == again.design
    assert first.super_weights == again.super_weights
    states = [planted.checkpoint.model.state_dict() for planted in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert draw_design(17, seed=1) != draw_design(17, seed=0)


def test_the_dtype_is_what_the_design_says() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        design = make_design(family="llama", layers=4, dtype=dtype, start="first", shape="row", traps=(), seed=1)
        model = build_planted_model(design).checkpoint.model
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_trap_that_needs_a_super_weight_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="no trap 'hot-column' in a model without super weights"):
        make_design(
            family="llama", layers=4, dtype="float32", start="bos", shape="none", traps=("hot-column",), seed=1
        )


def test_what_overflows_float16_becomes_bfloat16_and_its_design_says_so() -> None:
    design = make_design(family="llama", layers=4, dtype="float16", start="bos", shape="one", traps=(), seed=1)
    tall = dataclasses.replace(design.super_weights[0], height=1e6)
    planted = build_planted_model(dataclasses.replace(design, super_weights=(tall,)))
    assert planted.design.dtype == "bfloat16"
    assert planted.checkpoint.identity.dtype == "bfloat16"
    assert set(locate_super_weights(planted.checkpoint, design.text).addresses) == planted.super_weights


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "glm4"])
def test_behind_a_norm_only_the_token_that_was_asked_for_carries_the_spike(family: str) -> None:
    design = make_design(family=family, layers=6, dtype="float32", start="bos", shape="one", traps=(), seed=3)
    planted = build_planted_model(design)
    [scalar] = design.super_weights
    held = observe(planted.checkpoint, design.prompt).residual[scalar.layer, :, scalar.row].abs()
    others = torch.cat([held[: design.position], held[design.position + 1 :]])
    assert float(others.max()) < float(held[design.position]) / 20
