"""The section of all scalars that matter: what is said of them, their table, their sets and their chart."""

from __future__ import annotations

from typing import Any

import pytest
from support.critical import (
    EMBEDDING,
    GAIN,
    LOCATED,
    NORM,
    make_rich_search,
    make_scalar,
    make_search,
    make_searched_location,
)
from support.descent_pages import make_evidence as make_descendant
from support.evidence import compose, make_evidence
from support.pages import parse_page
from support.sections import BuiltSection, build_section, make_context, read_heads
from sw_audit_reports.html import render_html
from sw_audit_reports.sections.critical import LOCATED as LOCATED_SERIES
from sw_audit_reports.sections.critical import OTHERS, list_effects

from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.location import Impact
from sw_audit.record.record import ModelResult

TABLE = "Scalars that matter"


def make_result(search: CriticalSearch | None, impact: Impact = "bearing") -> ModelResult:
    update = {"critical": search, "location": make_searched_location(impact)}
    return make_evidence().model_copy(update=update)


def build(search: CriticalSearch | None, impact: Impact = "bearing") -> BuiltSection:
    return build_section("critical", make_context(make_result(search, impact)))


def make_gain(number: int, **changes: Any) -> Any:
    return make_scalar(NORM, number, **changes)


def test_where_nobody_searched_there_is_no_section() -> None:
    assert build(None).elements == []


def test_the_first_words_say_how_many_matter_on_which_text_and_which_costs_most() -> None:
    section = build(make_rich_search())
    said, located = section.text.splitlines()[:2]
    assert said.startswith(
        "On wikitext (2 windows of 96 tokens) 6 of 128 candidates matter: 3 alone, 2 only together,"
    )
    assert said.endswith(
        f"of the located set. Zeroing {NORM}[17] costs most: it multiplies perplexity by 22.35 [20.12, 24.59], "
        "and is none of the located super weights."
    )
    assert located == "Located super weights: 1 bearing."
    assert "The gradient does not reach the router of layer 2." in section.text


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (make_search(candidates=5), "none of 5 candidates is known to multiply perplexity by 1.1 or more."),
        (
            make_search(make_scalar(*(LOCATED.parameter, *LOCATED.index), ratio=6.0, located=True)),
            f"1 of 128 candidates matters: 1 alone. Zeroing {LOCATED} costs most: it multiplies perplexity by "
            "6.0000 [5.4, 6.6].",
        ),
        (make_search(make_gain(17, ratio=None)), "costs most: it leaves no finite perplexity, and is none of"),
        (make_search(make_gain(1, effect=None, kind="together", set=0)), "candidates matters: 1 only together."),
    ],
)  # fmt: skip
def test_none_one_and_what_is_not_finite_are_said(search: CriticalSearch, words: str) -> None:
    assert words in build(search).text.splitlines()[0]


def test_what_is_located_is_said_to_be_inert_where_somebody_tried() -> None:
    assert build(make_search(), "inert").text.splitlines()[1] == "Located super weights: 1 inert."
    assert len(build(make_search(), "unconfirmed").text.splitlines()) == 1


def test_the_table_has_each_scalar_that_matters_with_its_effects_its_set_and_its_rank() -> None:
    section = build(make_rich_search())
    heads = ["Scalar", "Zeroed", "Interval", "Matters", "Flipped", "Value", "Rank"]
    assert read_heads(section.table(TABLE)) == heads
    assert section.rows(TABLE) == [
        [f"{NORM}[17]", "22.35", "[20.12, 24.59]", "alone", "9,060,484", "-1.2578", "4"],
        [f"{GAIN}[5]", "7.8750", "[7.088, 8.663]", "alone", "not finite", "-0.25, applied 0.75", "1"],
        [str(LOCATED), "6.6120", "[5.951, 7.273]", "alone, set 1, located", "-", "-1.9268", "5"],
        [f"{GAIN}[7]", "1.0200", "[0.918, 1.122]", "together, set 2", "-", "0.5", "40"],
        [f"{EMBEDDING}[11, 7]", "-", "-", "together, set 2", "-", "0.5", "-"],
        [f"{GAIN}[9]", "0.9800", "[0.882, 1.078]", "masks, set 3", "-", "0.5", "-"],
    ]
    [idle] = section.rows("Tried alone")
    assert (idle[0], idle[3]) == (f"{EMBEDDING}[3, 3]", "no")


def test_an_inert_located_scalar_stands_in_the_table_and_what_is_not_finite_is_told() -> None:
    inert = make_scalar(LOCATED.parameter, *LOCATED.index, kind=None, located=True)
    rows = build(make_search(make_gain(1, ratio=None, others={"median": 1.5, "one": 2.0}), inert), "inert").rows(
        TABLE
    )
    assert rows[0][1:6] == ["not finite", "-", "alone", "1.5000", "2.0000"]
    assert rows[1][3] == "inert, located"


def test_many_scalars_are_all_there_the_later_ones_folded_away() -> None:
    section = build(make_search(*(make_gain(number, ratio=2.0) for number in range(30))))
    assert len(section.rows(TABLE)) == 24
    assert [row[0] for row in section.rows("More of these")] == [f"{NORM}[{number}]" for number in range(24, 30)]
    assert section.table("More of these").fold == "6 more scalars of these"


def test_sets_are_listed_by_their_members_under_the_number_that_the_table_names() -> None:
    assert build(make_rich_search()).rows("Sets") == [
        [str(LOCATED), "1", "22,603", "[20,343, 24,863]", "the located super weights, all zeroed"],
        [f"{GAIN}[7]", "2", "3.4000", "[3.06, 3.74]", "matter only together, all zeroed"],
        [f"{EMBEDDING}[11, 7]", "2", "3.4000", "[3.06, 3.74]", "matter only together, all zeroed"],
        [
            f"{GAIN}[9]",
            "3",
            "0.2500",
            "[0.225, 0.275]",
            "mask: zeroed with the located set, over that set by itself",
        ],
    ]


def test_every_scalar_that_was_zeroed_alone_has_a_point_with_or_without_a_rank() -> None:
    search = make_rich_search()
    rows = list_effects(search)
    assert [(row["value"], row["rank"], row["series"]) for row in rows] == [
        (22.35, 4, OTHERS),
        (7.875, 1, OTHERS),
        (1.02, 40, OTHERS),
        (0.98, None, OTHERS),
        (1.0, 90, OTHERS),
        (6.612, 5, LOCATED_SERIES),
    ]
    [chart] = build(search).charts
    for drawing in chart.drawings.values():
        assert drawing.count(": 0.98 [") == 1
        assert drawing.count("<title>model.") == 6
    assert "The dotted line is the limit, 1.1." in chart.caption
    assert "At the right edge stand those that the gradient did not rank." in chart.caption
    assert "1 scalar tried in sets only has no point" in chart.caption


@pytest.mark.parametrize(
    "scalars",
    [
        [make_gain(1, ratio=None, rank=3)],
        [make_gain(1, ratio=None)],
        [make_gain(1, ratio=1e6, rank=1)],
        [make_gain(1, ratio=0.5)],
        [make_gain(1, ratio=1e6, rank=134_515_008), make_gain(2, ratio=None), make_gain(3, ratio=1e-3, rank=1)],
    ],
)
def test_huge_small_single_and_unranked_effects_are_drawn_with_finite_figures(scalars: list[Any]) -> None:
    [chart] = build(make_search(*scalars)).charts
    assert set(chart.drawings) == {"wide", "narrow"}
    for drawing in chart.drawings.values():
        assert drawing.count(f"<title>{NORM}[") == len(scalars)
        assert "NaN" not in drawing
        assert "Infinity" not in drawing
    assert ("not finite" in chart.caption) == any(one.effect.ratio is None for one in scalars)


def test_without_a_scalar_that_was_zeroed_alone_there_is_no_chart() -> None:
    assert build(make_search()).charts == []


def make_searched_descendant(*scalars: RetainedScalar, search: CriticalSearch | None = None) -> ModelResult:
    result = make_descendant("child", kept=True)
    assert result.descent is not None
    critical = search or make_rich_search()
    update = {"critical": critical, "critical_scalars": scalars, "parent_location": make_searched_location()}
    return result.model_copy(update={"descent": result.descent.model_copy(update=update)})


def test_of_a_descendant_the_parents_scalars_stand_there_and_here_what_moved_most_first() -> None:
    first, second, third = (ScalarAddress(parameter=NORM, index=(number,)) for number in (31, 17, 5))
    result = make_searched_descendant(
        RetainedScalar(address=first, parent=-2.0, value=-2.0),
        RetainedScalar(address=second, parent=-1.2578125, value=-1.2578125 / 2),
        RetainedScalar(address=third, parent=1.0, value=None, finite=False),
    )
    section = build_section("critical", make_context(result))
    assert section.text.startswith("The search was made in the parent.\nOn wikitext")
    assert section.rows("The parent's scalars") == [
        [f"{NORM}[5]", "1", "not finite", "-", "-"],
        [f"{NORM}[17]", "-1.2578", "-0.62891", "-50 %", "22.35"],
        [f"{NORM}[31]", "-2", "-2", "0 %", "-"],
    ]
    assert section.has_table(TABLE)


def test_a_descendant_that_was_searched_itself_too_shows_both_under_their_own_ids() -> None:
    result = make_searched_descendant().model_copy(update={"critical": make_search(make_gain(1, ratio=3.0))})
    page = parse_page(render_html(compose(result)))
    assert page.mistakes == []
    ids = [element.attributes["id"] for element in page.find("figure") if "critical" in element.attributes["id"]]
    assert ids == ["model-1-critical-effects", "model-1-critical-parent-effects"]
