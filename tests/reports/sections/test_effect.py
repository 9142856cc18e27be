"""What the super weights do, as the charts show it."""

from __future__ import annotations

import pytest
from support.evidence import BASELINE_PERPLEXITY, make_evidence, make_none_evidence
from support.sections import make_context
from sw_audit_reports.plots import ArmRow
from sw_audit_reports.sections.effect import (
    AS_IT_IS,
    KEPT,
    PLAIN,
    RAW,
    ZEROED,
    list_arms,
    list_layers,
    list_recipes,
)

from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.record.arm import PRUNED
from sw_audit.record.verdict import Finding, Status, Verdict


def make_verdict(check: str, **figures: object) -> Verdict:
    values = {"check": check, "model": "specimen", "status": Status.PASS, "because": "it is so", **figures}
    return Verdict.model_validate({"quantity": "perplexity ratio", **values})


def find_row(rows: list[ArmRow], label: str) -> ArmRow:
    [row] = [row for row in rows if row.label == label]
    return row


def test_the_interval_of_an_arm_is_its_ratio_interval_times_the_baseline() -> None:
    verdict = make_verdict("prune-collapses", arm="pruned", observed=213.6, low=200.0, high=220.0, limit=10.0)
    rows = list_arms(make_context(make_evidence(), [verdict]))
    [point] = find_row(rows, "Super weights zeroed").points
    assert point == pytest.approx(tuple(BASELINE_PERPLEXITY * ratio for ratio in (213.6, 200, 220)))


def test_the_interval_and_the_limit_of_a_recipe_are_those_of_the_finding_on_its_arm() -> None:
    finding = Finding(
        label="int4/64x64",
        arm="int4/64x64 hold-out",
        status=Status.PASS,
        observed=1.08,
        low=1.07,
        high=1.1,
        limit=1.2,
        because="so",
    )
    verdict = make_verdict("rtn-holdout-quality", findings=(finding,))
    rows = list_recipes(make_context(make_evidence(), [verdict]))
    by_name = {(row["recipe"], row["series"]): row for row in rows}
    held_out, plain = (by_name["int4/64x64", series] for series in (KEPT, PLAIN))
    assert (held_out["low"], held_out["limit"], held_out["label"]) == (1.07, 1.2, "int4/64x64")
    assert (plain["low"], plain["limit"], plain["interval"]) == (plain["value"], None, "")
    assert by_name["int4/tensor", PLAIN]["value"] == pytest.approx(4.73)


def test_a_verdict_on_another_quantity_gives_no_interval() -> None:
    verdict = make_verdict("effect-exceeds-placebos", arm="pruned", observed=213.6, low=200.0, high=220.0)
    rows = list_arms(make_context(make_evidence(), [verdict]))
    assert all(point.low is None for row in rows for point in row.points)


def test_all_draws_of_one_placebo_stand_in_one_row_among_the_controls() -> None:
    rows = list_arms(make_context(make_evidence()))
    placebo = find_row(rows, "Placebo, same row")
    assert (len(placebo.points), placebo.group) == (3, "Controls")
    assert [row.group for row in rows] == sorted(
        [row.group for row in rows], key=["", "Super weights", "Controls", "Experts", "Rounded"].index
    )


def test_an_arm_that_is_not_finite_keeps_its_place_without_a_figure() -> None:
    rows = list_arms(make_context(make_evidence(ratios={PRUNED.name: None})))
    assert find_row(rows, "Super weights zeroed").points == [(None, None, None)]


def test_layers_show_the_model_the_pruned_model_and_the_raw_spikes() -> None:
    points = list_layers(make_evidence())
    assert {point["series"] for point in points} == {AS_IT_IS, ZEROED, RAW}
    top = max((point for point in points if point["series"] == RAW), key=lambda point: point["value"])
    assert (top["layer"], top["value"]) == (1, 412.0)


def test_without_measurements_the_locating_trace_stands_in() -> None:
    evidence = make_evidence().model_copy(update={"measurements": ()})
    points = list_layers(evidence)
    assert {point["series"] for point in points} == {AS_IT_IS, RAW}
    assert {point["value"] for point in points if point["series"] == AS_IT_IS and point["layer"] == 2} == {414.5}


def test_a_layer_that_is_not_finite_or_zero_is_left_out_of_a_logarithmic_axis() -> None:
    first, *rest = make_evidence(omit=(PRUNED.name,)).measurements
    broken = first.model_copy(update={"peaks": (None, 0.0, *first.peaks[2:])})
    evidence = make_evidence().model_copy(update={"measurements": (broken, *rest)})
    drawn = [point["layer"] for point in list_layers(evidence) if point["series"] == AS_IT_IS]
    assert drawn == [2, 3, 4, 5, 6, 7]


def test_recipes_of_different_bits_are_different_families() -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int4/row", "int8/row/symmetric")))
    rows = list_recipes(make_context(make_evidence(policy=policy), policy=policy))
    assert [row["family"] for row in rows if row["series"] == KEPT] == ["int4", "int8/symmetric"]
    assert [row["label"] for row in rows if row["series"] == KEPT] == ["int4/row", "int8/row/symmetric"]


def test_a_model_without_super_weights_is_measured_all_the_same() -> None:
    labels = [row.label for row in list_arms(make_context(make_none_evidence()))]
    assert "Super weights zeroed" not in labels
    assert "2 other outliers zeroed" in labels
