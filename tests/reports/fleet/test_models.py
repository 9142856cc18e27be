from __future__ import annotations

from support.many import BROKEN, make_many
from support.sections import plain, read_rows
from sw_audit_reports.elements import Block, Element, Paragraph, Table
from sw_audit_reports.fleet import Entry, FleetContext
from sw_audit_reports.fleet.models import describe_deciding, list_gates, name_parent, show_models

from sw_audit.record.record import Record
from sw_audit.record.standing import rank_worst_first
from sw_audit.record.verdict import Status


def make_context(record: Record) -> FleetContext:
    places = rank_worst_first(record.models)
    return FleetContext(
        record, tuple(Entry(place, f"model-{place + 1}", record.models[place]) for place in places)
    )


def show(record: Record) -> tuple[Block, list[Element]]:
    block, *rest = filter(None, show_models(make_context(record)))
    assert isinstance(block, Block)
    return block, rest


def test_the_worst_model_stands_first_with_the_gate_that_decides_and_a_sign_for_each_gate() -> None:
    rows = show(make_many())[0].values["rows"]
    assert [row["entry"].model.id for row in rows][:4] == ["gone", *BROKEN, "alone"]
    assert [row["badge"].word for row in rows][:5] == ["Not audited", "Fail", "Fail", "Inconclusive", "Pass"]
    assert [row["decided"] for row in rows][:5] == [
        ("", ""),
        ("super-weight-retained", "0.98, at most 0.25; 2 more"),
        ("super-weight-retained", "0.98, at most 0.25; 1 more"),
        ("weights-intact", "not measured"),
        ("", ""),
    ]
    assert [mark and mark["badge"].status for mark in rows[2]["marks"]] == [None, "fail", "fail", "pass"]
    assert rows[2]["marks"][2]["words"] == "perplexity-ratio: Fail, 118.4 [112.9, 124.7], at most 1.1"


def test_a_column_is_sorted_by_how_gates_ended_and_then_by_how_bad_the_figure_is() -> None:
    rows = {row["entry"].model.id: row for row in show(make_many())[0].values["rows"]}
    keys = {name: [float(part) for part in rows[name]["marks"][2]["sort"].split()] for name in rows if "t" in name}
    assert keys["tuned-2"] < keys["tuned-4"] < keys["tuned-3"] < keys["tuned-0"]


def test_a_gate_that_every_model_skips_is_named_and_has_no_column() -> None:
    record = make_many()
    skipped = tuple(
        model.model_copy(
            update={
                "verdicts": tuple(
                    one.model_copy(update={"status": Status.SKIPPED}) if one.check == "top1-agreement" else one
                    for one in model.verdicts
                )
            }
        )
        for model in record.models
    )
    block, rest = show(record.model_copy(update={"models": skipped}))
    assert block.values["gates"] == ["weights-intact", "super-weight-retained", "perplexity-ratio"]
    assert isinstance(rest[0], Paragraph)
    assert plain(rest[0].cells[0].text) == "Skipped by every model: top1-agreement."


def test_it_is_counted_how_many_models_each_gate_passed() -> None:
    [table] = show(make_many())[1]
    assert isinstance(table, Table)
    assert [column.title for column in table.columns] == [
        "Gate", "Fail", "Inconclusive", "Pass", "Limit", "What it claims",
    ]  # fmt: skip
    assert [row[:5] for row in read_rows(table)] == [
        ["weights-intact", "-", "1", "-", "-"],
        ["super-weight-retained", "2", "-", "6", "at most 0.25"],
        ["perplexity-ratio", "2", "-", "6", "at most 1.1"],
        ["top1-agreement", "1", "-", "7", "at least 0.9"],
    ]


def test_how_many_there_are_of_each_kind_is_what_can_be_chosen() -> None:
    assert show(make_many())[0].values["shown"] == [
        ("fail", "failing", 3), ("inconclusive", "undecided", 1), ("pass", "passing", 6),
    ]  # fmt: skip


def test_what_a_model_is_held_against_is_its_parent_or_its_baseline() -> None:
    models = {model.id: model for model in make_many().models}
    assert [name_parent(models[name]) for name in ("tuned-0", "tuned-7", "alone", "gone")] == [
        "parent", "other-parent", "", "",
    ]  # fmt: skip
    assert describe_deciding(models["tuned-0"]) == ("", "")
    assert list_gates(make_context(make_many()))[0] == "weights-intact"
