"""The section that holds a model against its baseline."""

from __future__ import annotations

from support.evidence import SUPER_WEIGHT, compose, make_evidence
from support.pages import parse_page
from support.sections import build_section, make_context, render_example
from sw_audit_reports.html import render_html

from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.identity import Tool


def make_baseline() -> Baseline:
    evidence = make_evidence()
    return Baseline(
        name="before",
        created="2026-01-02T03:04:05+00:00",
        tool=Tool(version="0.1.0"),
        model=evidence.model,
        protocol=evidence.protocol,
        location=evidence.location,
        measurement=evidence.measurements[0],
        weights=(
            HeldWeight(address=SUPER_WEIGHT.address, layer=1, before=-2.0, value=-1.0),
            HeldWeight(address=SUPER_WEIGHT.address, layer=1, before=-2.0, value=None),
        ),
        activations=(HeldActivation(channel=37, token=0, before=-400.0, value=-100.0),),
    )


def test_then_and_now_stand_beside_each_other() -> None:
    compared = make_evidence().model_copy(update={"baseline": make_baseline()})
    section = build_section("baseline", make_context(compared))
    assert "the baseline before of 2026-01-02, of models/specimen: its perplexity was 6.25" in section.text
    kept, unread = section.rows("Its super weights")
    assert kept[1:] == ["-2", "-1", "-50 %"]
    assert unread[2] == "not measured"
    assert section.rows("Its super activations")[0][-1] == "0.2500"
    assert build_section("baseline", make_context(make_evidence())).elements == []


def test_the_section_stands_on_the_page_of_a_model_that_is_compared() -> None:
    assert "Beside its baseline" not in render_example()[1].text
    page = parse_page(render_html(compose(make_evidence().model_copy(update={"baseline": make_baseline()}))))
    assert page.mistakes == []
    assert page.get("model-1-baseline").text == "Beside its baseline"
