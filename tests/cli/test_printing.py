from __future__ import annotations

import pytest

from sw_audit.cli.printing import Output, make_table, write_bytes


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
