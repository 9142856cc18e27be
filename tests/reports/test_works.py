"""The section on how super weights work: what it tells, and what it leaves out."""

from __future__ import annotations

import pytest
from support.evidence import HEALTHY, make_evidence, make_none_evidence, make_policy
from sw_audit_reports.page import Table, Works
from sw_audit_reports.works import build_works

from sw_audit.checks.registry import judge_evidence
from sw_audit.record.arm import FLIPPED, PRUNED, is_dose, name_placebo
from sw_audit.record.record import ModelResult


def build(evidence: ModelResult) -> Works:
    policy = make_policy()
    works = build_works(evidence, judge_evidence(evidence, policy), policy, "m")
    assert works is not None
    return works


def read(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[column.title for column in table.columns], *([cell.text for cell in row] for row in table.rows)]


def test_one_sentence_tells_the_effect_of_the_set_and_its_rank_among_the_controls() -> None:
    works = build(make_evidence())
    assert works.told.startswith(
        "Zeroed together, the super weights multiply perplexity by 213.6; of 12 matched controls none does as "
        "much harm (p = 0.077)."
    )


@pytest.mark.parametrize(("harmful", "words"), [(1, "1 does as much"), (2, "2 do as much")])
def test_controls_that_do_as_much_are_counted(harmful: int, words: str) -> None:
    ratios = {name_placebo("same-row", draw + 1): 900.0 for draw in range(harmful)}
    works = build(make_evidence(ratios={**HEALTHY, **ratios}))
    assert f"of 12 matched controls {words} harm (p = {0.15 if harmful == 1 else 0.23})" in works.told


def test_without_controls_the_effect_is_told_without_a_rank() -> None:
    policy = make_policy()
    evidence = make_evidence()
    works = build_works(evidence, judge_evidence(evidence, policy, ["prune-collapses"]), policy, "m")
    assert works is not None
    assert works.told == "Zeroed together, the super weights multiply perplexity by 213.6."
    assert read(works.sets)[0] == ["What is done", "Perplexity ratio", "Interval", "Share"]


def test_an_effect_that_is_not_finite_is_told_by_the_table_alone() -> None:
    works = build(make_evidence(ratios={**HEALTHY, PRUNED: None}))
    assert works.told == ""
    assert read(works.sets)[1][1] == "not finite"


def test_published_perplexities_stand_beside_the_doses_and_what_else_was_published_of_the_model_below() -> None:
    works = build(make_evidence())
    titles = {figure.id: figure.title for figure in works.figures}
    assert list(titles) == ["m-dose", "m-published-1", "m-stream-1", "m-attended-1"]
    assert titles["m-published-1"] == "What others have measured of lab/own at each factor"
    doses, published = works.figures[:2]
    assert "published curves of lab/other" in doses.caption
    assert all("lab/other, published, times 0.25: 80" in drawing.markup for drawing in doses.drawings)
    assert all("Published, times 0: 35" in drawing.markup for drawing in published.drawings)
    assert all("Accuracy, percent" in drawing.markup for drawing in published.drawings)
    head, *rows = read(doses.table)
    assert head == [
        "Factor", "Perplexity ratio", "Interval", "Published: own, accuracy, percent", "Published: other",
    ]  # fmt: skip
    by_factor = {row[0]: row for row in rows}
    assert by_factor["0.25"][3:] == ["\N{EN DASH}", "80"]
    assert by_factor["1"][1:4] == ["1", "\N{EN DASH}", "70"]


def test_upright_axes_say_what_they_show() -> None:
    works = build(make_evidence())
    words = {
        "m-dose": "Perplexity over that of the model as it is",
        "m-stream-1": "Value in the residual stream",
        "m-attended-1": "Share of attention",
    }
    for figure in works.figures:
        for drawing in figure.drawings:
            assert words.get(figure.id, "") in drawing.markup


def test_the_mechanism_tells_who_makes_it_who_carries_it_and_what_pruning_takes() -> None:
    _, _, stream, attended = build(make_evidence()).figures
    # The MLP of layer 1 adds -412; later layers add -0.5 each: at the least 412 of 412.5 is carried.
    assert "Layer 1 adds most of it: its MLP \N{MINUS SIGN}412 and its attention 1.5." in stream.caption
    assert "Through layers 2 to 6 skip connections alone carry at least 99.9 % of it." in stream.caption
    assert "(in the paper's Llama-7B: 75 %)" in stream.caption
    assert "it is 90 % on average, and with the super weights zeroed 25 %" in attended.caption
    assert read(stream.table)[2] == [
        "1", "\N{MINUS SIGN}1.5", "1.5", "\N{MINUS SIGN}412", "\N{MINUS SIGN}412", "0.5", "99.9 %",
    ]  # fmt: skip
    assert read(attended.table)[2] == ["1", "30 %", "25 %"]


def test_attention_that_is_not_shown_is_left_out_with_a_sentence() -> None:
    evidence = make_evidence()
    [mechanism] = evidence.mechanism
    layers = tuple(one.model_copy(update={"attended": None, "attended_pruned": None}) for one in mechanism.layers)
    blind = evidence.model_copy(update={"mechanism": (mechanism.model_copy(update={"layers": layers}),)})
    attended = build(blind).figures[-1]
    assert attended.drawings == ()
    assert attended.caption.startswith("Left out: this model shows no attention weights")


def test_a_model_that_was_not_taken_apart_has_no_such_section() -> None:
    evidence = make_none_evidence()
    assert build_works(evidence, (), make_policy(), "m") is None
    located = make_evidence().model_copy(update={"mechanism": (), "published_doses": ()})
    plain = tuple(one for one in located.measurements if not is_dose(one.arm) and one.arm.name != FLIPPED)
    assert build_works(located.model_copy(update={"measurements": plain}), (), make_policy(), "m") is None
