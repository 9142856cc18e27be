from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.text import Text
from support.critical import NORM, make_rich_search, make_search
from support.evidence import compose, make_evidence
from support.hostile import make_hostile
from support.program import Program

from sw_audit.cli.main import COMMANDS
from sw_audit.cli.printing import Output, make_table, print_json, print_line, print_models, write_bytes
from sw_audit.printable import printable_lines
from sw_audit.record.store import encode_record

UNSEEN = "a\x1b[31m\a\x9b2J\u202e\u2066\u200b\u2028\ud800z"
SHOWN = r"a\x1b[31m\x07\x9b2J\u202e\u2066\u200b\u2028\ud800z"
"""What drives a terminal, turns text around or is not seen, and how it is shown."""


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


def test_a_name_that_drives_a_terminal_is_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(width=200)
    output.print(UNSEEN)
    output.print(Text(UNSEEN, style="bold"))
    output.print_lines(f"{UNSEEN}\nforged")
    output.print(make_table(["model", "check"], [(UNSEEN, Text(SHOWN))]))
    print_line(f"{UNSEEN}\nforged", err=True)
    out, err = capsys.readouterr()
    assert out.count(r"\x1b[31m") == 5
    assert printable_lines(out) == out
    assert f"{SHOWN}\\nforged\n" in out
    assert err == f"{SHOWN}\\nforged\n"


DRIVING = "a\x1b]0;title\x07\x9b2J\u202e\u2066\u200bz"
"""What sets a terminal's title, clears it, and turns text around; no command's runner would take it out."""
_COMMANDS = [command for command in COMMANDS if command != "demo"]
"""All but the one that takes no name and audits at once."""
_ON_RECORDS = (
    ("diff", "hostile.json", "hostile.json", "--unverified"),
    ("verify", "hostile.json"),
    ("verify", "hostile.json", DRIVING),
    ("render", "hostile.json", "--unverified", "--format", "text", "-o", "-"),
    ("render", "hostile.json", "--format", DRIVING),
    ("audit", "specimen", f"--{DRIVING}"),
    ("audit", "specimen", "--check", DRIVING),
    ("audit", "specimen", "--compare", DRIVING),
)


@pytest.mark.parametrize("words", [*((command, DRIVING) for command in _COMMANDS), *_ON_RECORDS], ids=" ".join)
def test_no_command_lets_through_what_drives_a_terminal(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words in _ON_RECORDS:
        Path("hostile.json").write_text(encode_record(make_hostile(DRIVING)), encoding="utf-8")
    ended = Program(tmp_path).run(*words)
    told = ended.out + ended.err
    assert printable_lines(told) == told
    assert told


def test_json_is_printed_in_ascii_where_it_could_not_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": UNSEEN, "grüße": 1})
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": UNSEEN, "grüße": 1}
    assert printable_lines(out) == out
    assert "grüße" in out


def test_a_family_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = make_evidence()
    forged = result.model_copy(
        update={"model": result.model.model_copy(update={"family": "llama\nPASSED: 9 pass"})}
    )
    print_models(Output(width=300), compose(forged))
    assert not any(line.startswith("PASSED") for line in capsys.readouterr().out.splitlines())
