"""How a model is quantized."""

from __future__ import annotations

from support.descent_pages import make_quantization
from support.evidence import make_evidence
from support.sections import BuiltSection, build_section, make_context

from sw_audit.record.checkpoint import QuantizationReport

STORED = "The parent's super weights as they are stored"


def build(report: QuantizationReport | None) -> BuiltSection:
    evidence = make_evidence().model_copy(update={"quantization": report})
    return build_section("quantization", make_context(evidence))


def test_the_rounding_error_of_the_scalar_is_told_in_steps_of_its_group() -> None:
    [row] = build(make_quantization(kept=False)).rows(STORED)
    # 0.98 of 1.9268 is 1.888, and a step is 0.2.
    assert row[1] == "4 bits, one scale per 32 inputs"
    assert row[-1] == "9.44"
    assert build(make_quantization(kept=True)).rows(STORED)[0][-1] == "0"


def test_patterns_ways_and_what_was_left_out_are_listed() -> None:
    section = build(make_quantization(kept=True))
    assert section.rows("What each pattern") == [["lm_head", "ignore", "1"], ["re:.*experts.*", "ignore", "0"]]
    assert section.rows("How modules are stored") == [["4 bits, one scale per 32 inputs", "4"]]
    assert section.rows("1 decoder matrix not quantized") == [["model.layers.5.mlp.experts.down_proj"]]
    assert "near those that it computes with: activations are rounded as well." in section.text


def test_weights_that_are_exact_are_said_to_be_and_no_report_is_no_section() -> None:
    exact = make_quantization(kept=True).model_copy(update={"exact": True, "because": "", "unquantized": ()})
    section = build(exact)
    assert section.text.endswith("The weights that were read are exactly those that it computes with.")
    assert not section.has_table("0 decoder matrices")
    assert build(None).elements == []
