"""The series of the section on how super weights work, with figures worked out by hand."""

from __future__ import annotations

import math

import pytest
from support.evidence import (
    BASELINE_PERPLEXITY,
    HEALTHY,
    PARAMETER,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_measurement,
    make_policy,
    make_protocol,
)
from sw_audit_reports.causes import count_controls, list_attended, list_doses, list_sets, list_stream
from sw_audit_reports.series import ATTENTION, INTACT, SPIKE, TOUCHED

from sw_audit.checks.registry import judge_evidence
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import FLIPPED, PRUNED
from sw_audit.record.location import SuperWeight
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict
from sw_audit.runner.plan import ArmTargets, plan_arms

RATIOS = {PRUNED: 100.0, "alone/1": 10.0, "alone/2": 1.0, "row/1": 100.0, FLIPPED: 1000.0}


def judge(evidence: ModelResult) -> tuple[Verdict, ...]:
    return judge_evidence(evidence, make_policy())


def make_scalar(layer: int, row: int, column: int, expert: int | None = None) -> SuperWeight:
    name = PARAMETER.replace("layers.1", f"layers.{layer}")
    changes = {"parameter": name, "layer": layer, "row": row, "column": column, "expert": expert}
    return SUPER_WEIGHT.model_copy(update=changes)


def make_set(*scalars: SuperWeight) -> ModelResult:
    """Return the evidence on a set, its parts measured as they are planned; parts without a ratio do nothing."""
    location = make_location().model_copy(update={"super_weights": scalars})
    arms = plan_arms(Policy(), ("prune-collapses",), ArmTargets(location.addresses))
    measurements = tuple(
        make_measurement(arm, RATIOS.get(arm.name, 1.0), protocol=make_protocol(windows=32), windows=32)
        for arm in arms
    )
    return make_evidence(location=location).model_copy(update={"measurements": measurements})


def test_a_set_of_one_is_zeroed_and_flipped_and_has_no_parts() -> None:
    evidence = make_evidence()
    rows = list_sets(evidence, judge(evidence))
    assert [row.label for row in rows] == ["All zeroed: layer 1 [37, 211]", "All, sign flipped: layer 1 [37, 211]"]
    assert [row.ratio.value for row in rows] == pytest.approx([213.6, 61.0])
    assert [row.share for row in rows] == pytest.approx([1.0, math.log(61.0) / math.log(213.6)])
    # Of twelve controls none does as much.
    assert [row.rank for row in rows] == [1 / 13, 1 / 13]
    assert rows[0].ratio.low is not None


def test_each_part_of_a_set_is_named_by_its_scalars_with_its_share_of_the_damage_in_nats() -> None:
    scalars = (make_scalar(1, 37, 211), make_scalar(1, 37, 9), make_scalar(4, 5, 9))
    rows = list_sets(evidence := make_set(*scalars), judge(evidence))
    # The row is the set without the third: measured once, told twice.
    assert [(row.label, row.share) for row in rows] == [
        ("All zeroed: 3 scalars", 1.0),
        ("Only scalar 1 zeroed: layer 1 [37, 211]", pytest.approx(0.5)),
        ("Only scalar 2 zeroed: layer 1 [37, 9]", pytest.approx(0.0, abs=1e-12)),
        ("Only scalar 3 zeroed: layer 4 [5, 9]", pytest.approx(0.0, abs=1e-12)),
        ("Row group 1 zeroed: row 37, 2 scalars", pytest.approx(1.0)),
        ("All but 1 zeroed: layer 1 [37, 211] stays", pytest.approx(0.0, abs=1e-12)),
        ("All but 2 zeroed: layer 1 [37, 9] stays", pytest.approx(0.0, abs=1e-12)),
        ("All but 3 zeroed: layer 4 [5, 9] stays", pytest.approx(1.0)),
        ("All, sign flipped: 3 scalars", pytest.approx(1.5)),
    ]
    assert {row.rank for row in rows} == {None}


def test_of_a_set_of_two_all_but_one_has_no_row_of_its_own() -> None:
    scalars = (make_scalar(1, 37, 211, expert=3), make_scalar(1, 38, 211, expert=3))
    rows = list_sets(evidence := make_set(*scalars), judge(evidence))
    assert [row.label for row in rows] == [
        "All zeroed: 2 scalars",
        "Only scalar 1 zeroed: layer 1 [expert 3, 37, 211]",
        "Only scalar 2 zeroed: layer 1 [expert 3, 38, 211]",
        "All, sign flipped: 2 scalars",
    ]


def test_a_column_belongs_to_its_layer() -> None:
    scalars = (make_scalar(1, 37, 9), make_scalar(1, 38, 9), make_scalar(2, 39, 9))
    labels = [row.label for row in list_sets(make_set(*scalars), ())]
    assert "Column group 1 zeroed: layer 1, column 9, 2 scalars" in labels
    assert not any("Row group" in label for label in labels)


def test_a_part_that_is_not_finite_has_neither_ratio_nor_share() -> None:
    evidence = make_evidence(ratios={**HEALTHY, FLIPPED: None})
    flipped = list_sets(evidence, judge(evidence))[-1]
    assert (flipped.ratio.value, flipped.share) == (None, None)


def test_doses_rise_from_the_flipped_sign_and_hold_what_was_measured_under_other_names() -> None:
    evidence = make_evidence()
    doses = list_doses(evidence, judge(evidence))
    assert [dose.factor for dose in doses] == [-1, 0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3]
    values = {dose.factor: dose.ratio.value for dose in doses}
    assert values[-1] == pytest.approx(61.0)
    assert values[0] == pytest.approx(213.6)
    assert values[1] == 1
    assert all(dose.ratio.low is not None for dose in doses if dose.factor != 1)


def test_controls_that_hold_the_same_scalars_count_once() -> None:
    evidence = make_evidence()
    assert count_controls(evidence) == 12
    first = next(one for one in evidence.measurements if one.arm.name.startswith("placebo/"))
    same = tuple(
        one.model_copy(update={"arm": one.arm.model_copy(update={"acts": first.arm.acts})})
        if one.arm.name == "placebo/random/3"
        else one
        for one in evidence.measurements
    )
    assert count_controls(evidence.model_copy(update={"measurements": same})) == 11


def test_the_stream_has_what_leaves_each_layer_and_what_its_blocks_add() -> None:
    [mechanism] = make_evidence().mechanism
    points = {(point.layer, point.series): point.value for point in list_stream(mechanism)}
    assert len(points) == 8 * 4
    # Layer 0 leaves -1.5; to that layer 1 adds 1.5 and -412, or 1.5 and 0.5 with the weight zeroed.
    assert points[1, INTACT] == -412.0
    assert points[1, TOUCHED] == 0.5
    assert (points[1, ATTENTION], points[1, SPIKE]) == (1.5, -412.0)


def test_blocks_that_cannot_be_told_apart_and_attention_that_is_not_shown_are_left_out() -> None:
    [mechanism] = make_evidence().mechanism
    layers = list(mechanism.layers)
    whole = {"intact": layers[1].intact.model_copy(update={"attention": None, "mlp": None}), "attended": None}
    layers[1] = layers[1].model_copy(update=whole)
    changed = mechanism.model_copy(update={"layers": tuple(layers)})
    assert {point.series for point in list_stream(changed) if point.layer == 1} == {INTACT, TOUCHED}
    assert [point.series for point in list_attended(changed) if point.layer == 1] == [TOUCHED]


def test_the_baseline_of_the_made_up_model_is_what_the_ratios_are_over() -> None:
    baseline = make_evidence().measured("baseline")
    assert baseline is not None
    assert baseline.loss.perplexity == pytest.approx(BASELINE_PERPLEXITY)
