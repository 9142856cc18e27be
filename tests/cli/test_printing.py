from __future__ import annotations

import pytest
from support.critical import NORM, make_rich_search, make_search
from support.evidence import compose, make_evidence

from sw_audit.cli.printing import Output, make_table, print_models, write_bytes


def test_bytes_are_written_with_a_unit() -> None:
    written = [write_bytes(count) for count in (7, 999, 1500, 2_500_000_000, 10**14)]
    assert written == ["7 bytes", "999 bytes", "1.5 KB", "2.5 GB", "100 TB"]
    assert [write_bytes(count, ("B", "kB")) for count in (7, 79_000)] == ["7 B", "79 kB"]


def test_what_is_printed_stands_there_as_it_is_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output, cell = Output(), "[bold]:smile: " + "x" * 130
    output.print_lines(cell)
    output.print_whole(make_table(["a", "b"], [(cell, "1")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == cell
    assert lines[-1].split() == [*cell.split(), "1"] or lines[-2].split() == [*cell.split(), "1"]


def test_a_search_is_one_line_that_names_the_scalar_that_costs_most(capsys: pytest.CaptureFixture[str]) -> None:
    result, nothing, rich = make_evidence(), make_search(), make_rich_search()
    searched = (result.model_copy(update={"critical": search}) for search in (rich, nothing, None))
    print_models(Output(width=300), compose(*searched))
    lines = [line for line in capsys.readouterr().out.splitlines() if "candidates" in line]
    assert lines == [f"  {rich.summary}; {NORM}[17] costs most", f"  {nothing.summary}"]
