"""The section that holds a model against its baseline."""

from __future__ import annotations

import math

from support.baselines import hold, judge
from support.evidence import SUPER_WEIGHT, compose, make_evidence
from support.pages import parse_page
from support.sections import build_section, make_context, read_rows, render_example
from sw_audit_reports.elements import Chart
from sw_audit_reports.html import render_html
from sw_audit_reports.text import format_interval, format_number

from sw_audit.policy.policy import Policy
from sw_audit.record.baseline import Baseline, EarlierRun, HeldActivation, HeldWeight
from sw_audit.record.identity import Tool
from sw_audit.record.measurement import TokenLoss


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


def remember(name: str, **changes: object) -> EarlierRun:
    [run] = make_baseline().remember()
    return run.model_copy(update={"name": name, **changes})


def draw_history(*earlier: EarlierRun) -> Chart:
    baseline = make_baseline().model_copy(update={"earlier": earlier})
    compared = make_evidence().model_copy(update={"baseline": baseline})
    [chart] = build_section("baseline", make_context(compared)).charts
    return chart


def test_the_runs_before_the_baseline_are_drawn_over_it_with_their_paired_intervals() -> None:
    loss = make_baseline().measurement.loss
    # Every window costs log(2) more per token: twice the perplexity, in every window alike.
    twice = [nats + tokens * math.log(2) for nats, tokens in zip(loss.finite_nats, loss.tokens, strict=True)]
    worse = remember(
        "old", created="2025-12-31T00:00:00+00:00", loss=TokenLoss(nats=tuple(twice), tokens=loss.tokens)
    )
    endless = remember("older", loss=TokenLoss(nats=(None,) * len(twice), tokens=loss.tokens))
    chart = draw_history(endless, worse)
    assert chart.table is not None
    rows = read_rows(chart.table)
    assert [row[1] for row in rows] == ["older", "old", "before"]
    assert [row[-2:] for row in rows] == [["not finite", "-"], ["2.0000", "[2, 2]"], ["1.0000", "-"]]
    assert rows[1][0] == "2025-12-31 00:00, sw-audit 0.1.0"
    for drawing in chart.drawings.values():
        assert "<title>2025-12-31 00:00, sw-audit 0.1.0: 2 [2, 2]</title>" in drawing
        assert ", this run<" in drawing
        assert "this run: 1" in drawing


def test_a_run_that_read_more_than_the_baseline_is_compared_on_what_both_read() -> None:
    loss = make_baseline().measurement.loss
    twice = [nats + tokens * math.log(2) for nats, tokens in zip(loss.finite_nats, loss.tokens, strict=True)]
    longer = TokenLoss(nats=(*twice, 1e4), tokens=(*loss.tokens, 1))
    rows = read_rows(draw_history(remember("longer", loss=longer)).table)
    assert rows[0][-2:] == ["2.0000", "[2, 2]"]


def test_a_run_under_another_protocol_is_counted_and_not_drawn() -> None:
    chart = draw_history(remember("other", protocol="another"), remember("old"))
    assert "1 earlier run was measured under another protocol" in chart.caption
    assert [row[1] for row in read_rows(chart.table)] == ["old", "before"]


def test_this_run_stands_as_its_verdict_has_it() -> None:
    evidence = hold(6.25)
    assert evidence.baseline is not None
    baseline = evidence.baseline.model_copy(update={"earlier": evidence.baseline.remember()})
    held = evidence.model_copy(update={"baseline": baseline})
    verdict = judge("quality-not-worse", held, Policy(compare="main"))
    [chart] = build_section("baseline", make_context(held, (verdict,))).charts
    told = f"this run: {format_number(verdict.observed or 0)} {format_interval(verdict.low, verdict.high)}"
    assert told in chart.drawings["wide"]


def test_without_earlier_runs_there_is_no_history() -> None:
    compared = make_evidence().model_copy(update={"baseline": make_baseline()})
    assert build_section("baseline", make_context(compared)).charts == []


def test_the_section_stands_on_the_page_of_a_model_that_is_compared() -> None:
    assert "Beside its baseline" not in render_example()[1].text
    page = parse_page(render_html(compose(make_evidence().model_copy(update={"baseline": make_baseline()}))))
    assert page.mistakes == []
    assert page.get("model-1-baseline").text == "Beside its baseline"
