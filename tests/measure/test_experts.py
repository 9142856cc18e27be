"""Which experts are tried, in models into which one was planted that carries the super activation."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy
import pytest
from support.engine import open_experts

from sw_audit.checks.arms import ArmPlan, ArmTargets
from sw_audit.checks.plan import plan_arms
from sw_audit.critical.search import write_own_text
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.experts import study_experts
from sw_audit.measure.routing import follow_routing
from sw_audit.policy.policy import ExpertsPolicy, Policy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalScalar, CriticalSearch
from sw_audit.record.experts import ExpertStudy
from sw_audit.testing import build_planted_model, make_design

CHECK = "super-experts-exceed-controls"
CARRYING = ("mixtral", "qwen3_moe", "gpt_oss", "llama4_text")
TRIED = Policy(experts=ExpertsPolicy(tried=3))


@cache
def plant(family: str) -> Any:
    """Build a mixture in which one expert makes the super activation, and let it write its own text."""
    design = make_design(family=family, layers=5, dtype="float32", start="bos", shape="one", traps=(), seed=3)
    planted = build_planted_model(design)
    location = locate_super_weights(planted.checkpoint, design.text)
    return planted, location, write_own_text(planted.checkpoint, location)


def study(family: str, policy: Policy = Policy(), search: Any = None) -> ExpertStudy:  # noqa: B008
    planted, location, windows = plant(family)
    found = study_experts(planted.checkpoint, windows, location, search, policy)
    assert found is not None
    return found


@pytest.mark.parametrize("family", CARRYING)
def test_the_expert_that_carries_the_super_activation_is_the_one_that_is_marked(family: str) -> None:
    planted, _, windows = plant(family)
    [truth] = planted.super_weights
    found = study(family)
    marked, control = found.tried
    assert (marked.address.parameter, marked.address.expert) == (truth.parameter, truth.expert)
    assert (marked.marks, control.marks, found.marked) == (("super-weight", "output"), (), 1)
    routing = follow_routing(planted.checkpoint, windows.part(0, found.windows))
    peaks = {(one.layer, number): peak for one in routing for number, peak in enumerate(one.peaks)}
    assert found.largest == max(peak for peak in peaks.values() if peak is not None) == marked.peak
    reached = [peak for peak in peaks.values() if peak is not None]
    assert found.percentile == pytest.approx(float(numpy.percentile(reached, 99.5)))
    assert control.tokens >= marked.tokens > 0
    own = next(one for one in routing if one.layer == marked.address.layer)
    others = [count for number, count in enumerate(own.tokens) if number != marked.address.number]
    assert (control.address.layer == own.layer) is any(count >= marked.tokens for count in others)
    assert control.peak == peaks[control.address.layer, control.address.number]


@pytest.mark.parametrize("family", CARRYING)
def test_zeroing_it_does_more_than_zeroing_its_control(family: str) -> None:
    planted, _, windows = plant(family)
    tried = study(family).tried
    arms = plan_arms(Policy(), [CHECK], ArmTargets(experts=tried))
    names = [arm.name for arm in arms]
    assert names[-2:] == ["experts", "control-experts"]
    measured = measure_arms(planted.checkpoint, arms, windows, protocol="p")
    losses = {one.arm.name: one.loss for one in measured}
    ratio = losses["experts"].ratio_to(losses["control-experts"])
    assert ratio is not None
    assert ratio > 1.08
    # Of one expert the set is that expert.
    assert losses["experts"] == losses[names[1]]
    assert len(measured[0].routing) == 5


def test_an_expert_of_which_a_scalar_is_critical_is_tried_before_those_whose_output_stands_out() -> None:
    address = ScalarAddress(parameter="model.layers.3.mlp.experts.gate_up_proj", index=(1, 5, 7))
    other = ScalarAddress(parameter="model.norm.weight", index=(1,))
    scalars = tuple(CriticalScalar(address=one, value=0.5, rank=1, kind="alone") for one in (address, other))
    search = CriticalSearch(
        text="own",
        window=64,
        windows=4,
        minimum_ratio=1.2,
        confidence=0.95,
        ranked=9,
        candidates=2,
        scalars=scalars,
    )
    found = study("mixtral", search=search)
    marks = {(one.address.layer, one.address.number): one.marks for one in found.tried if one.marks}
    assert marks[3, 1] == ("critical-scalar",)
    assert found.marked == len(marks) == 2
    [first, *_] = study("mixtral", Policy(experts=ExpertsPolicy(tried=1)), search).tried
    assert "super-weight" in first.marks


def test_no_more_are_tried_than_the_policy_says_and_each_control_is_another_expert() -> None:
    places = [(layer, expert) for layer in range(5) for expert in (0, 1)]
    names = [f"model.layers.{layer}.mlp.experts.down_proj" for layer, _ in places]
    scalars = tuple(
        CriticalScalar(address=ScalarAddress(parameter=name, index=(expert, 1, 1)), value=0.5, kind="alone")
        for name, (_, expert) in zip(names, places, strict=True)
    )
    search = CriticalSearch(
        text="own",
        window=64,
        windows=4,
        minimum_ratio=1.2,
        confidence=0.95,
        ranked=9,
        candidates=2,
        scalars=scalars,
    )
    found = study("mixtral", TRIED, search)
    controls = [one for one in found.tried if one.is_control]
    assert (found.marked, len(found.tried), len(controls)) == (11, 6, 3)
    assert len({str(one.address) for one in found.tried}) == 6
    assert all(one.address.number in (2, 3) for one in controls)
    assert study("mixtral", TRIED, search) == found


def test_a_model_whose_super_weight_is_in_a_dense_layer_before_its_experts_has_no_marked_one() -> None:
    found = study("deepseek_v3")
    assert (found.tried, found.marked, found.last_layer, found.experts) == ((), 0, 0, 16)


def test_without_a_super_activation_every_layer_counts_and_nothing_stays_on_the_model() -> None:
    planted, location, windows = plant("mixtral")
    none = location.model_copy(update={"super_activations": (), "super_weights": ()})
    found = study_experts(planted.checkpoint, windows, none, None, Policy())
    assert found is not None
    assert (found.last_layer, found.tried[0].marks) == (None, ("output",))
    assert not any(module._forward_hooks for module in planted.checkpoint.model.modules())
    assert ArmPlan(Policy(), ArmTargets(experts=found.tried)).targets.experts == found.tried


def test_experts_that_are_modules_are_tried_as_well() -> None:
    _, location, _ = plant("mixtral")
    none = location.model_copy(update={"super_activations": (), "super_weights": ()})
    together, apart = open_experts("mixtral"), open_experts("apart")
    windows = write_own_text(together, none)
    both = [study_experts(one, windows, none, None, Policy()) for one in (together, apart)]
    places = [
        [(one.address.layer, one.address.number, one.tokens) for one in found.tried] for found in both if found
    ]
    assert places[0] == places[1]
    assert len(places[0]) == 2
