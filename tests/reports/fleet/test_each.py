from __future__ import annotations

from support.many import make_many
from support.sections import read, read_rows
from sw_audit_reports.elements import Block, Table
from sw_audit_reports.fleet import Entry, FleetContext
from sw_audit_reports.fleet.each import show_each, write_whole_command


def show(full: frozenset[str] = frozenset()) -> dict[str, Block]:
    record = make_many()
    entries = tuple(Entry(place, f"model-{place + 1}", model) for place, model in enumerate(record.models))
    _, *blocks = filter(None, show_each(FleetContext(record, entries, full)))
    return {block.values["name"]: block for block in blocks if isinstance(block, Block)}


def test_a_model_says_in_short_what_it_comes_to_and_which_gates_it_does_not_pass() -> None:
    shown = show()
    assert list(shown) == [*(f"tuned-{place}" for place in range(8)), "alone", "gone"]
    broken = shown["tuned-2"].values
    assert "super weight" in read(broken["sentence"])
    [table] = broken["elements"]
    assert isinstance(table, Table)
    assert [row[:5] for row in read_rows(table)] == [
        ["super-weight-retained", "Fail", "0.98", "-", "at most 0.25"],
        ["perplexity-ratio", "Fail", "118.4", "[112.9, 124.7]", "at most 1.1"],
        ["top1-agreement", "Fail", "0.04", "-", "at least 0.9"],
    ]
    assert shown["tuned-0"].values["elements"] == []
    assert read(shown["gone"].values["sentence"]) == "Of a reason."


def test_what_is_not_on_the_page_is_a_command_away() -> None:
    shown = show(full=frozenset({"model-3"}))
    assert shown["tuned-2"].values["full"] == "model-3-whole"
    assert shown["tuned-1"].values["full"] is None
    assert shown["tuned-1"].values["command"] == write_whole_command("tuned-1")
    assert write_whole_command("a b") == "sw-audit render record.json --model 'a b' -o 'a b.html'"
    assert shown["gone"].values["command"] is None
