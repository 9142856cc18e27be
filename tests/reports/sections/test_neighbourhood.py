"""Around the super weights: each is framed at its own cell, its rank is told, the parent's side is beside it."""

from __future__ import annotations

import pytest
from support.descent import make_descent_evidence, make_retained
from support.evidence import LAYER, SUPER_WEIGHT, make_evidence, make_none_evidence
from support.maps import make_neighbourhood
from support.sections import BuiltSection, build_section, make_context, plain, read_rows

from sw_audit.record.record import ModelResult


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("neighbourhood", make_context(evidence))


def test_a_super_weight_is_told_with_its_rank_and_what_is_largest_beside_it() -> None:
    [chart] = build(make_evidence()).charts
    assert chart.title == f"Magnitudes around {SUPER_WEIGHT.address}"
    assert (
        "Model as it is: -1.927, by magnitude the largest of the 44,032 weights of its matrix; the largest beside "
        "it here is -0.5." in plain(chart.caption)
    )
    assert read_rows(chart.table) == [
        ["Model as it is", "37", "211", "-1.927"],
        ["Model as it is", "38", "211", "-0.5"],
        ["Model as it is", "37", "212", "0.25"],
        ["Model as it is", "38", "212", "0.25"],
    ]
    for drawing in chart.drawings.values():
        assert drawing.count('stroke="#c0450f"') == 1
        assert "row 37" in drawing


@pytest.mark.parametrize(
    ("rank", "said"),
    [(2, "by magnitude number 2 of the 44,032 weights of its matrix (the top 0.0045 %)"), (None, "-1.927; the")],
)
def test_a_rank_that_is_not_the_first_is_told_as_a_part_of_the_matrix(rank: int | None, said: str) -> None:
    around = make_neighbourhood(SUPER_WEIGHT.address, LAYER, SUPER_WEIGHT.value, rank=rank)
    [chart] = build(make_evidence().model_copy(update={"neighbourhoods": (around,)})).charts
    assert said in plain(chart.caption)


def test_beside_a_parent_both_sides_are_shown_and_framed() -> None:
    [chart] = build(make_descent_evidence(super_weights=(make_retained(0.5),))).charts
    assert "Parent: -1.927, by magnitude the largest" in plain(chart.caption)
    assert "This model: -0.9634, by magnitude number 2" in plain(chart.caption)
    assert all(drawing.count('fill="none"') >= 1 for drawing in chart.drawings.values())
    lost = make_neighbourhood(SUPER_WEIGHT.address, LAYER, None, rank=None)
    [chart] = build(make_descent_evidence(super_weights=(make_retained(None, neighbourhood=lost),))).charts
    assert "This model: not finite;" in chart.caption
    assert "An empty frame marks what is not finite." in chart.caption


def test_at_most_six_are_drawn_and_where_nothing_is_known_the_section_is_left_out() -> None:
    around = make_evidence().neighbourhoods * 9
    assert len(build(make_evidence().model_copy(update={"neighbourhoods": around})).charts) == 6
    assert build(make_none_evidence()).elements == []
    unread = make_retained(1.0, neighbourhood=None, parent_neighbourhood=None)
    assert build(make_descent_evidence(super_weights=(unread,))).elements == []
