from __future__ import annotations

import re

from support.many import make_many
from support.sections import read
from sw_audit_reports.elements import Block, Paragraph
from sw_audit_reports.fleet import Entry, FleetContext
from sw_audit_reports.fleet.drift import list_drifts, order_by_parent, show_drift

from sw_audit.record.record import Record


def make_context(record: Record) -> FleetContext:
    backwards = reversed(list(enumerate(record.models)))
    return FleetContext(record, tuple(Entry(place, f"model-{place + 1}", model) for place, model in backwards))


def test_models_stand_by_what_they_are_held_against_then_as_the_policy_has_them() -> None:
    held = order_by_parent(make_context(make_many()))
    assert [entry.model.id for entry in held] == [f"tuned-{place}" for place in range(8)]


def test_each_gate_about_a_parent_whose_figure_differs_has_a_small_chart_of_all_models() -> None:
    context = make_context(make_many())
    drifts = list_drifts(context, order_by_parent(context))
    assert [drift.gate for drift in drifts] == ["super-weight-retained", "perplexity-ratio", "top1-agreement"]
    assert [verdict.observed for verdict in drifts[1].verdicts.values()] == [
        1.0, 1.001, 118.4, 1.003, 1.004, 118.4, 1.006, 1.007,
    ]  # fmt: skip
    words, block = filter(None, show_drift(context))
    assert isinstance(words, Paragraph)
    assert "6 against parent and 2 against other-parent" in read(words.cells)
    assert isinstance(block, Block)
    chart = block.values["charts"][1]
    assert chart["said"] == "2 of 8 models fail; limit at most 1.1."
    tips = re.findall(r"<title>(tuned-\d: [\d.]+)</title>", chart["drawing"])
    assert sorted(tips)[2:4] == ["tuned-2: 118.4", "tuned-3: 1.003"]
    assert len(tips) == 8


def test_a_figure_that_is_not_finite_is_drawn_at_the_edge_and_none_is_left_out() -> None:
    record = make_many()
    broken = record.models[2]
    verdicts = tuple(
        one.model_copy(update={"observed": None}) if one.check == "perplexity-ratio" else one
        for one in broken.verdicts
    )
    models = list(record.models)
    models[2] = broken.model_copy(update={"verdicts": verdicts})
    block = list(filter(None, show_drift(make_context(record.model_copy(update={"models": tuple(models)})))))[1]
    assert isinstance(block, Block)
    assert "<title>tuned-2: not finite</title>" in block.values["charts"][1]["drawing"]


def test_where_nothing_is_held_against_anything_there_is_no_drift() -> None:
    record = make_many()
    alone = record.model_copy(update={"models": record.models[8:]})
    assert list(show_drift(make_context(alone))) == []
