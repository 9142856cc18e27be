from __future__ import annotations

import pytest
from support.evidence import BASELINE_PERPLEXITY, make_evidence, make_none_evidence
from sw_audit_reports.series import INTACT, SPIKE, TOUCHED, list_arms, list_layers, list_recipes

from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.record.arm import PRUNED
from sw_audit.record.verdict import Finding, Status, Verdict


def make_verdict(check: str, **figures: object) -> Verdict:
    values = {"check": check, "model": "specimen", "status": Status.PASS, "because": "it is so", **figures}
    return Verdict.model_validate({"quantity": "perplexity ratio", **values})


def test_the_interval_of_an_arm_is_its_ratio_interval_times_the_baseline() -> None:
    verdict = make_verdict("prune-collapses", observed=213.6, low=200.0, high=220.0, limit=10.0)
    rows = list_arms(make_evidence(), [verdict])
    [point] = next(row for row in rows if row.label == "Super weights zeroed").points
    assert point.value == pytest.approx(213.6 * BASELINE_PERPLEXITY)
    assert (point.low, point.high) == pytest.approx((200 * BASELINE_PERPLEXITY, 220 * BASELINE_PERPLEXITY))


def test_a_finding_that_is_labelled_with_a_recipe_is_about_its_hold_out_arm() -> None:
    finding = Finding(
        label="int4/64x64", status=Status.PASS, observed=1.08, low=1.07, high=1.1, limit=1.2, because="so"
    )
    verdict = make_verdict("rtn-holdout-quality", findings=(finding,))
    points = list_recipes(make_evidence(), [verdict], Policy())
    found = {(point.recipe, point.series): point for point in points}
    assert found["int4/64x64", INTACT].ratio.low == 1.07
    assert found["int4/64x64", INTACT].limit == 1.2
    assert found["int4/64x64", TOUCHED].ratio.low is None
    assert found["int4/tensor", TOUCHED].ratio.value == pytest.approx(4.73)


def test_a_verdict_on_another_quantity_gives_no_interval() -> None:
    verdict = make_verdict("prune-collapses", quantity="nats", observed=213.6, low=200.0, high=220.0)
    rows = list_arms(make_evidence(), [verdict])
    assert all(point.low is None for row in rows for point in row.points)


def test_all_draws_of_one_placebo_stand_in_one_row_among_the_controls() -> None:
    rows = list_arms(make_evidence(), [])
    placebo = next(row for row in rows if row.label == "Placebo, same row")
    assert (len(placebo.points), placebo.group) == (3, "Controls")
    assert [row.group for row in rows] == sorted(
        [row.group for row in rows], key=["", "Super weights", "Controls", "Rounded"].index
    )


def test_an_arm_that_is_not_finite_keeps_its_place_without_a_figure() -> None:
    rows = list_arms(make_evidence(ratios={PRUNED: None}), [])
    assert next(row for row in rows if row.label == "Super weights zeroed").points[0].value is None


def test_layers_show_the_model_the_pruned_model_and_the_raw_spikes() -> None:
    points = list_layers(make_evidence())
    assert {point.series for point in points} == {INTACT, TOUCHED, SPIKE}
    top = max((point for point in points if point.series == SPIKE), key=lambda point: point.value)
    assert (top.layer, top.value) == (1, 412.0)


def test_without_measurements_the_locating_trace_stands_in() -> None:
    evidence = make_evidence().model_copy(update={"measurements": ()})
    points = list_layers(evidence)
    assert {point.series for point in points} == {INTACT, SPIKE}
    assert next(point.value for point in points if point.series == INTACT and point.layer == 2) == 414.5


def test_a_layer_that_is_not_finite_or_zero_is_left_out_of_a_logarithmic_axis() -> None:
    first, *rest = make_evidence(omit=(PRUNED,)).measurements
    broken = first.model_copy(update={"peaks": (None, 0.0, *first.peaks[2:])})
    evidence = make_evidence().model_copy(update={"measurements": (broken, *rest)})
    assert [point.layer for point in list_layers(evidence) if point.series == INTACT] == [2, 3, 4, 5, 6, 7]


def test_recipes_of_different_bits_are_different_families() -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int4/row", "int8/row/symmetric")))
    points = list_recipes(make_evidence(policy=policy), [], policy)
    assert [point.family for point in points if point.series == INTACT] == ["int4", "int8/symmetric"]


def test_a_model_without_super_weights_is_measured_all_the_same() -> None:
    labels = [row.label for row in list_arms(make_none_evidence(), [])]
    assert "Super weights zeroed" not in labels
    assert "2 other outliers zeroed" in labels
