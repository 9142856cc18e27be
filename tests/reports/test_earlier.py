"""The section that holds a model against its baseline."""

from __future__ import annotations

from support.evidence import SUPER_WEIGHT, change_model, make_evidence, make_record
from support.pages import parse_page
from sw_audit_reports.earlier import build_earlier
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
    found = build_earlier(make_baseline())
    assert found is not None
    assert "the baseline before of 2026-01-02, of models/specimen: its perplexity was 6.25" in found.told
    assert found.weights is not None
    assert found.activations is not None
    texts = [[cell.text.replace("\N{MINUS SIGN}", "-") for cell in row][1:] for row in found.weights.rows]
    assert texts[0] == ["-2", "-1", "-50 %"]
    assert texts[1][1] == "not measured"
    assert found.activations.rows[0][-1].text == "0.2500"
    assert build_earlier(None) is None


def test_the_section_stands_on_the_page_of_a_model_that_is_compared() -> None:
    record = make_record(windows=8, items=8)
    assert "Beside its baseline" not in parse_page(render_html(record)).text
    page = parse_page(render_html(change_model(record, baseline=make_baseline())))
    assert page.mistakes == []
    assert page.get("model-1-earlier").text == "Beside its baseline"
