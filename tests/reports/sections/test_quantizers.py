"""The section on quantizers side by side, alone on the page and in an audit's."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from support.comparison import FAILED, MISSING, make_comparison, make_comparison_evidence, make_comparison_record
from support.evidence import compose, judge_model, make_evidence, make_policy
from support.pages import parse_page
from support.sections import BuiltSection, build_section, make_context, summarize
from sw_audit_reports.html import render_html
from sw_audit_reports.sections.quantizers import spread

from sw_audit.record.record import ModelResult


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("quantizers", make_context(evidence))


def test_every_quantizer_is_a_row_or_is_said_not_to_be_measured() -> None:
    section = build(make_comparison_evidence())
    rows = section.rows("Ratios with 95 % intervals")
    assert [row[0] for row in rows] == [
        "Model as it is",
        "int4/group64",
        "int4/group64, held out",
        "int4/512x512",
        "int4/512x512, held out",
        "int4/tensor",
        "int4/tensor, held out",
        "bitsandbytes-nf4",
    ]
    assert rows[1][1:3] == ["4.50", "1.0110"]
    assert rows[5][2] == "not finite"
    assert rows[7][-1] == "79 kB"
    missing = {row[0]: row[2] for row in section.rows("Not measured")}
    assert missing == {"gptqmodel-gptq": MISSING, "torchao-int4": FAILED}
    assert "bitsandbytes-nf4 leaves 6 matrices as they are" in section.text


def test_a_record_without_a_comparison_has_no_such_section() -> None:
    assert build(make_evidence()).elements == []
    assert summarize("quantizers", make_context(make_evidence())) == ""


def test_what_a_chart_shows_is_told_in_words_and_every_point_has_a_name() -> None:
    [chart] = build(make_comparison_evidence()).charts
    assert "Holding out gains most at int4/512x512: 189 times less divergence." in chart.caption
    assert "triangle" in chart.caption
    for drawing in chart.drawings.values():
        assert 'role="img"' in drawing
        assert "bitsandbytes-nf4: 0.017 nats at 4.57 bits" in drawing
        assert "int4/512x512, held out: 0.13 nats at 4.00 bits" in drawing
        assert "int4/tensor: not finite at 4.00 bits" in drawing
        # The shapes differ, so that colour is never needed: a circle is drawn by arcs, the others by lines.
        assert re.search(r'd="M[^"]*A', drawing)
        assert re.search(r'd="M[^"]*L[^"]*Z"', drawing)


def test_a_comparison_alone_reads_as_one_and_not_as_an_audit_without_verdicts() -> None:
    page = parse_page(render_html(make_comparison_record()))
    assert page.mistakes == []
    assert "Quantizers compared on specimen" in page.text
    assert "7 of 9 quantizers measured" in page.text
    for word in ("Checks at a glance", "Each check in detail", "What it does", "Inconclusive", "Audit of"):
        assert word not in page.text
    assert "sw-audit compare-quantizers models/specimen --policy audit.swaudit.toml --methods" in page.text
    assert "this asks for the same comparison" in page.text


def test_a_comparison_in_an_audits_record_stands_beside_its_checks() -> None:
    policy = make_policy()
    result = judge_model(make_evidence(windows=8, items=8), policy)
    compared = result.model_copy(update={"comparison": make_comparison()})
    page = parse_page(render_html(compose(compared, policy=policy)))
    assert page.mistakes == []
    assert page.text.count("Quantizers side by side") == 1
    assert "Gates at a glance" in page.text
    assert "Quantizers compared on" not in page.text


def test_without_super_weights_it_is_said_that_nothing_is_held_out() -> None:
    comparison = make_comparison(located=False)
    rows = tuple(
        row.model_copy(update={"hold_out": "nothing-to-hold"}) if row.hold_out == "none" and row.arm else row
        for row in comparison.rows
    )
    evidence = make_comparison_evidence(located=False)
    alone = evidence.model_copy(update={"comparison": comparison.model_copy(update={"rows": rows})})
    assert "No super weight was located, so nothing is held out." in build(alone).text


@pytest.mark.parametrize("heights", [[1.0, 2.0, 3.0], [330.0, 335.0, 339.0], [0.0], [100.0, 100.0, 300.0]])
def test_labels_never_cover_each_other_and_stay_inside(heights: list[float]) -> None:
    slots = list(spread({str(place): height for place, height in enumerate(heights)}).values())
    assert all(below - above >= 15 - 1e-9 for above, below in pairwise(slots))
    assert slots[-1] <= 336
    assert slots[0] >= 0
