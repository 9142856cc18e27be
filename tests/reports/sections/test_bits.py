"""Quality against bits: the rows worked out by hand, from an audit's recipes and from a comparison."""

from __future__ import annotations

import pytest
from support.comparison import make_comparison_evidence
from support.evidence import make_evidence, make_policy
from support.sections import BuiltSection, build_section, make_context, read_rows
from sw_audit_reports.sections.bits import list_bits

from sw_audit.checks.judging import judge_result
from sw_audit.record.record import ModelResult

PLAIN, HELD = "Plain", "Super weights held out"


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("bits", make_context(evidence, judge_result(evidence, make_policy())))


def test_each_rounding_of_which_bits_are_known_is_a_row_the_fewest_bits_first() -> None:
    evidence = make_evidence()
    context = make_context(evidence, judge_result(evidence, make_policy()))
    rows = [(row["name"], row["series"], row["bits"], row["value"]) for row in list_bits(context)]
    assert rows == [
        ("int4/tensor", HELD, 4.0, pytest.approx(1.162)),
        ("int4/tensor", PLAIN, 4.0, pytest.approx(4.73)),
        ("int4/64x64", HELD, 4.008, pytest.approx(1.083)),
        ("int4/64x64", PLAIN, 4.008, pytest.approx(1.184)),
        ("int4/group64", HELD, 4.5, pytest.approx(1.05)),
        ("int8/row", HELD, 8.125, pytest.approx(1.004)),
    ]


def test_the_table_has_the_interval_of_the_check_and_the_caption_names_the_fewest_bits_that_are_good() -> None:
    [chart] = build(make_evidence()).charts
    rows = {(row[0], row[1]): row[2:] for row in read_rows(chart.table)}
    assert rows["int4/tensor", PLAIN][:2] == ["4.000", "4.73"]
    bits, ratio, interval = rows["int8/row", HELD]
    assert (bits, ratio) == ("8.125", "1.004")
    assert interval.startswith("[")
    assert f"8.12 (int8/row, super weights held out), 1.004 {interval}." in chart.caption
    for drawing in chart.drawings.values():
        assert "int4/64x64, plain, 4.01 bits: 1.184" in drawing


def test_a_comparison_has_other_libraries_too_and_what_is_not_finite_stands_at_the_edge() -> None:
    [chart] = build(make_comparison_evidence()).charts
    rows = {(row[0], row[1]): row[2:] for row in read_rows(chart.table)}
    assert rows["bitsandbytes-nf4", "Other libraries"][:2] == ["4.570", "1.017"]
    assert rows["int4/tensor", PLAIN] == ["4.000", "not finite", "-"]
    assert "A triangle at the edge" in chart.caption
    assert len(rows) == 7


def test_where_bits_are_not_known_the_section_is_left_out() -> None:
    assert build(make_evidence().model_copy(update={"bits_per_weight": {}})).elements == []
