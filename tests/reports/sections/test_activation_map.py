"""Activations by layer and token: what is drawn, what is said of it, what is left out."""

from __future__ import annotations

from support.descent import make_descent_evidence
from support.evidence import make_evidence, make_none_evidence
from support.maps import make_map
from support.sections import BuiltSection, build_section, make_context, read_heads, read_rows

from sw_audit.record.maps import ActivationMap
from sw_audit.record.record import ModelResult


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("activation-map", make_context(evidence))


def test_the_largest_cell_of_each_side_is_told_and_each_layer_has_a_row() -> None:
    [chart] = build(make_evidence()).charts
    assert "Model as it is: at most 412.5, at token 0 after layer 1." in chart.caption
    assert "Super weights zeroed: at most 6, at token 0 after layer 1." in chart.caption
    assert read_heads(chart.table) == ["Layer", "Model as it is", "At token", "Super weights zeroed", "At token"]
    rows = read_rows(chart.table)
    assert rows[:2] == [["0", "2", "0", "2", "0"], ["1", "412.5", "0", "6", "0"]]
    assert len(rows) == 8
    for drawing in chart.drawings.values():
        for words in ("Model as it is", "Super weights zeroed", "0 &lt;s&gt;", "1 the", "super weight"):
            assert words in drawing


def test_beside_a_parent_its_side_comes_first() -> None:
    [chart] = build(make_descent_evidence()).charts
    assert "Parent: at most 412.5, at token 0 after layer 1. This model: at most 400," in chart.caption
    assert read_heads(chart.table)[1::2] == ["Parent", "This model"]


def test_what_is_not_finite_is_said_and_framed() -> None:
    [chart] = build(make_descent_evidence(activation_map=make_map(412.5, None))).charts
    assert "This model: at most 2, at token 0 after layer 0." in chart.caption
    assert "An empty frame marks what is not finite." in chart.caption
    [lost] = build(make_descent_evidence(activation_map=make_nowhere_finite())).charts
    assert "This model: not finite." in lost.caption
    assert read_rows(lost.table)[1][3:] == ["not finite", ""]


def make_nowhere_finite() -> ActivationMap:
    seen = make_map()
    return seen.model_copy(update={"after": tuple((None,) * 3 for _ in seen.layers)})


def test_tokens_of_any_text_are_cut_and_named_by_their_place() -> None:
    seen = make_map().model_copy(update={"tokens": ("\x1b[31m" * 200, "</svg><script>", "  "), "first_token": 40})
    [chart] = build(make_evidence().model_copy(update={"activation_map": seen})).charts
    assert "at token 40 after layer 1" in chart.caption
    assert max(map(len, chart.drawings.values())) < 30_000
    for drawing in chart.drawings.values():
        assert "\x1b" not in drawing
        assert "<script" not in drawing
        assert "42 &#39;  &#39;" in drawing or "42 '  '" in drawing


def test_without_a_map_there_is_no_such_section() -> None:
    assert build(make_none_evidence()).elements == []
    assert build(make_descent_evidence(activation_map=None)).elements == []
