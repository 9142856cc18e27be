"""How the super weights work: figures worked out by hand, what is said of them, and what is left out."""

from __future__ import annotations

import math

import pytest
from support.evidence import (
    HEALTHY,
    PARAMETER,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_measurement,
    make_none_evidence,
    make_policy,
    make_protocol,
)
from support.sections import BuiltSection, build_section, make_context, plain, read_heads, read_rows
from sw_audit_reports.sections.effect import AS_IT_IS, ZEROED
from sw_audit_reports.sections.mechanism import (
    ATTENTION_ADDS,
    MLP_ADDS,
    list_attention,
    list_doses,
    list_sets,
    list_stream,
)

from sw_audit.checks.judging import judge_result
from sw_audit.checks.plan import ArmTargets, plan_arms
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import FLIPPED, PRUNED, Dose, Placebo
from sw_audit.record.location import SuperWeight
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict

SETS = "What the set and its parts do"
RATIOS = {PRUNED.name: 100.0, "alone/1": 10.0, "alone/2": 1.0, "row/1": 100.0, FLIPPED.name: 1000.0}


def judge(evidence: ModelResult) -> tuple[Verdict, ...]:
    return judge_result(evidence, make_policy())


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("mechanism", make_context(evidence, judge(evidence), make_policy()))


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
    evidence = make_evidence(ratios={**HEALTHY, FLIPPED.name: None})
    flipped = list_sets(evidence, judge(evidence))[-1]
    assert (flipped.ratio.value, flipped.share) == (None, None)


def test_doses_rise_from_the_flipped_sign_and_hold_what_was_measured_under_other_names() -> None:
    evidence = make_evidence()
    doses = list_doses(evidence, judge(evidence))
    assert list(doses) == [-1, 0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3]
    assert [doses[factor].value for factor in (-1, 0, 1)] == pytest.approx([61.0, 213.6, 1.0])
    assert all(dose.low is not None for factor, dose in doses.items() if factor != 1)


def test_the_stream_has_what_leaves_each_layer_and_what_its_blocks_add() -> None:
    [mechanism] = make_evidence().mechanism
    points = {(round(row["layer"]), row["series"]): row["value"] for row in list_stream(mechanism)}
    assert len(points) == 8 * 4
    # Layer 0 leaves -1.5; to that layer 1 adds 1.5 and -412, or 1.5 and 0.5 with the weight zeroed.
    assert points[1, AS_IT_IS] == -412.0
    assert points[1, ZEROED] == 0.5
    assert (points[1, ATTENTION_ADDS], points[1, MLP_ADDS]) == (1.5, -412.0)


def test_blocks_that_cannot_be_told_apart_and_attention_that_is_not_shown_are_left_out() -> None:
    [mechanism] = make_evidence().mechanism
    layers = list(mechanism.layers)
    whole = {"intact": layers[1].intact.model_copy(update={"attention": None, "mlp": None}), "attended": None}
    layers[1] = layers[1].model_copy(update=whole)
    changed = mechanism.model_copy(update={"layers": tuple(layers)})
    assert {row["series"] for row in list_stream(changed) if round(row["layer"]) == 1} == {AS_IT_IS, ZEROED}
    assert [row["series"] for row in list_attention(changed) if row["layer"] == 1] == [ZEROED]


@pytest.mark.parametrize(
    ("harmful", "words"),
    [
        (0, "none does as much harm (p = 0.077)."),
        (1, "1 does as much harm (p = 0.15)."),
        (2, "2 do as much harm (p = 0.23)."),
    ],
)
def test_one_sentence_tells_the_effect_of_the_set_and_its_rank_among_controls(harmful: int, words: str) -> None:
    ratios = {Placebo(control="same-row", draw=draw + 1).name: 900.0 for draw in range(harmful)}
    works = build(make_evidence(ratios={**HEALTHY, **ratios}))
    effect = "Zeroed together, the super weights multiply perplexity by 213.6; of 12 matched controls"
    assert works.text.startswith(f"{effect} {words}")


def test_without_controls_the_effect_is_told_without_a_rank() -> None:
    policy = make_policy()
    evidence = make_evidence()
    verdicts = judge_result(evidence, policy, ["prune-collapses"])
    works = build_section("mechanism", make_context(evidence, verdicts, policy))
    assert works.text == "Zeroed together, the super weights multiply perplexity by 213.6."
    assert read_heads(works.table(SETS)) == ["What is done", "Perplexity ratio", "Interval", "Share"]


def test_an_effect_that_is_not_finite_is_told_by_the_table_alone() -> None:
    works = build(make_evidence(ratios={**HEALTHY, PRUNED.name: None}))
    assert works.text == ""
    assert works.rows(SETS)[0][1] == "not finite"


def test_published_perplexities_stand_beside_the_doses_and_what_else_was_published_of_the_model_below() -> None:
    works = build(make_evidence())
    titles = {chart.id: chart.title for chart in works.charts}
    assert list(titles) == ["m-dose", "m-published-1", "m-stream-1", "m-attended-1"]
    assert titles["m-published-1"] == "What others have measured of lab/own at each factor"
    doses, published = works.charts[:2]
    assert "published curves of lab/other" in doses.caption
    assert all("lab/other, published, times 0.25: 80" in drawing for drawing in doses.drawings.values())
    assert all("Published, times 0: 35" in drawing for drawing in published.drawings.values())
    assert all("Accuracy, percent" in drawing for drawing in published.drawings.values())
    assert read_heads(doses.table) == [
        "Factor", "Perplexity ratio", "Interval", "Published: own, accuracy, percent", "Published: other",
    ]  # fmt: skip
    by_factor = {row[0]: row for row in read_rows(doses.table)}
    assert by_factor["0.25"][3:] == ["-", "80"]
    assert by_factor["1"][1:4] == ["1", "-", "70"]


def test_upright_axes_say_what_they_show() -> None:
    works = build(make_evidence())
    words = {
        "m-dose": "Perplexity over that of the model as it is",
        "m-stream-1": "Value in the residual stream",
        "m-attended-1": "Share of attention",
    }
    for chart in works.charts:
        for drawing in chart.drawings.values():
            assert words.get(chart.id, "") in drawing


def test_the_mechanism_tells_who_makes_it_who_carries_it_and_what_pruning_takes() -> None:
    _, _, stream, attended = build(make_evidence()).charts
    # The MLP of layer 1 adds -412; later layers add -0.5 each: at the least 412 of 412.5 is carried.
    assert "Layer 1 adds most of it: its MLP -412 and its attention 1.5." in plain(stream.caption)
    assert "Through layers 2 to 6 skip connections alone carry at least 99.9 % of it." in stream.caption
    assert "(in the paper's Llama-7B: 75 %)" in stream.caption
    assert "it is 90 % on average, and with the super weights zeroed 25 %" in attended.caption
    assert read_rows(stream.table)[1] == ["1", "-1.5", "1.5", "-412", "-412", "0.5", "99.9 %"]
    assert read_rows(attended.table)[1] == ["1", "30 %", "25 %"]


def test_attention_that_is_not_shown_is_left_out_with_a_sentence() -> None:
    evidence = make_evidence()
    [mechanism] = evidence.mechanism
    layers = tuple(one.model_copy(update={"attended": None, "attended_pruned": None}) for one in mechanism.layers)
    blind = evidence.model_copy(update={"mechanism": (mechanism.model_copy(update={"layers": layers}),)})
    attended = build(blind).charts[-1]
    assert attended.drawings == {}
    assert attended.caption.startswith("Left out: this model shows no attention weights")


def test_a_model_that_was_not_taken_apart_has_no_such_section() -> None:
    evidence = make_none_evidence()
    assert build_section("mechanism", make_context(evidence)).elements == []
    located = make_evidence().model_copy(update={"mechanism": (), "published_doses": ()})
    plain_arms = tuple(
        one
        for one in located.measurements
        if not isinstance(one.arm.purpose, Dose) and one.arm.name != FLIPPED.name
    )
    bare = located.model_copy(update={"measurements": plain_arms})
    assert build_section("mechanism", make_context(bare)).elements == []
