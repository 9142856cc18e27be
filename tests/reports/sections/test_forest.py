"""The section that draws every figure beside its limit."""

from __future__ import annotations

import pytest
from support.evidence import make_evidence
from support.sections import build_section, make_context
from sw_audit_reports.sections.forest import divide_by_limit
from sw_audit_reports.verdicts import Estimate

from sw_audit.record.verdict import Side, Status, Verdict


def make(
    check: str,
    observed: float | None,
    limit: float | None,
    side: Side = "at most",
    *,
    ends: tuple[float | None, float | None] = (None, None),
    status: Status = Status.PASS,
) -> Verdict:
    return Verdict(
        check=check, model="m", status=status, observed=observed, low=ends[0], high=ends[1], limit=limit,
        side=side, because="b",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (make("a", 1.1, 2.2, ends=(0.55, 4.4)), Estimate(0.5, 0.25, 2.0)),
        (make("a", 5.0, 10.0, "at least", ends=(2.5, 20.0)), Estimate(2.0, 0.5, 4.0)),
        (make("a", 5.0, 10.0, "at least", ends=(-1.0, 20.0)), Estimate(2.0, 0.5, 1000.0)),
        (make("a", -5.0, 10.0, "at least"), Estimate()),
        (make("a", -5.0, 10.0, ends=(-8.0, 20.0)), Estimate(0.001, 0.001, 2.0)),
        (make("a", None, 10.0, status=Status.FAIL), Estimate()),
        (make("a", None, 10.0, status=Status.INCONCLUSIVE), None),
        (make("a", 0.0, 0.0), None),
        (make("a", -30.0, -3.0), None),
        (make("a", 1.0, None), None),
    ],
)
def test_above_1_is_the_bad_side_whichever_side_is_good(verdict: Verdict, expected: Estimate | None) -> None:
    assert divide_by_limit(verdict) == expected


def test_gates_come_before_laws_and_what_is_not_drawn_or_has_no_interval_is_said() -> None:
    law = make("a-law", 0.5, 1.0, ends=(0.4, 0.6)).model_copy(update={"level": "law"})
    gates = (
        make("certain", 2000.0, 1.1, ends=(1500.0, 2600.0), status=Status.FAIL),
        make("counted", 0.0, 3.0),
        make("none-allowed", 0.0, 0.0),
        make("left-aside", None, 1.0, status=Status.SKIPPED),
    )
    section = build_section("limits", make_context(make_evidence(), (law, *gates)))
    [chart] = section.charts
    assert "too little: counted." in chart.caption
    assert "divide by: none-allowed." in chart.caption
    assert "left-aside" not in chart.caption
    assert "Bars are 95 % intervals" in chart.caption
    wide, narrow = chart.drawings["wide"], chart.drawings["narrow"]
    for drawing in (wide, narrow):
        places = [drawing.index(f">{name}<") for name in ("Gates", "Laws", "certain", "counted", "a-law")]
        assert places == sorted(places)
        assert "<title>certain: 1,818 [1,364, 2,364]</title>" in drawing
        assert ">2,000 (\N{LESS-THAN OR EQUAL TO} 1.1)<" in drawing
    assert chart.table is not None
    [first, *_] = chart.table.rows
    assert [cell.text for cell in first][-2:] == ["1,818", "[1,364, 2,364]"]


def test_without_a_figure_there_is_no_section() -> None:
    assert build_section("limits", make_context(make_evidence(), (make("none-allowed", 0.0, 0.0),))).elements == []
