"""`sw-audit merge`: several records as one, and every other command on what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.evidence import compose, judge_model, make_evidence, make_policy
from support.program import Program

from sw_audit import __version__
from sw_audit.evidence.merge import restore_sources
from sw_audit.record.identity import Tool
from sw_audit.record.record import Record
from sw_audit.record.store import encode_record, read_record


def make_audit(model_id: str, windows: int = 8) -> Record:
    policy = make_policy(model_id)
    evidence = make_evidence(model_id, policy=policy, windows=windows, items=8)
    return compose(judge_model(evidence, policy), policy=policy, tool=Tool(version=__version__))


def list_changed(program: Program, side: str) -> list[str]:
    """List what was changed but for the text, which is made up."""
    lines = program.run("verify", side).out.splitlines()
    return [line for line in lines if line.startswith("CHANGED  ") and "text specimen" not in line]


@pytest.fixture
def folder(program: Program) -> Path:
    for name, record in (("a", make_audit("a")), ("b", make_audit("b", 6))):
        (program.folder / f"{name}.json").write_text(encode_record(record))
    return program.folder


def test_record_and_report_are_written_and_every_command_takes_them(program: Program, folder: Path) -> None:
    ending = program.run("merge", "a.json", "b.json", "-o", "out")
    assert (ending.code, ending.complaints) == (0, [])
    assert "MERGED: 2 models of 2 records" in ending.out
    merged = read_record(folder / "out" / "record.json")
    assert restore_sources(merged) == [make_audit("a"), make_audit("b", 6)]
    assert read_record(folder / "out" / "report.html") == merged
    for side in ("out", "out/report.html"):
        assert list_changed(program, side) == []
    assert program.run("diff", "a.json", "out").code == 0
    assert "SAME" in program.run("diff", "out", "out/report.html").out
    for form in ("junit", "text", "markdown", "sarif", "html"):
        assert program.run("render", "out/record.json", "--format", form, "-o", "-").code == 0
    assert program.run("render", "out/record.json", "--model", "b", "-o", "b.html").code == 0
    assert [model.id for model in read_record(folder / "b.html").models] == ["b"]
    assert list_changed(program, "b.html") == []


def test_one_file_is_written_where_one_is_named(program: Program, folder: Path) -> None:
    assert program.run("merge", "laptop=a.json", "server=a.json", "-o", "both.html").code == 0
    assert [model.id for model in read_record(folder / "both.html").models] == ["a@laptop", "a@server"]
    assert program.run("merge", "both.html", "b.json", "-o", "all.json").code == 0
    assert len(read_record(folder / "all.json").sources) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "all.json", "b.json", "both.html"]


def test_a_record_that_was_changed_is_refused_unless_it_is_taken_by_name(program: Program, folder: Path) -> None:
    document = json.loads((folder / "a.json").read_text())
    document["models"][0]["verdicts"][0]["status"] = "fail"
    (folder / "a.json").write_text(json.dumps(document))
    ending = program.run("merge", "a.json", "b.json", "-o", "out")
    assert ending.code == 2
    assert len(ending.complaints) == 1
    assert "record a.json: it does not verify" in ending.err
    assert not (folder / "out").exists()
    assert program.run("merge", "a.json", "b.json", "-o", "out", "--unverified").code == 0
    assert "sources[0]: it did not verify when it was merged" in program.run("verify", "out").out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("a.json", "a.json"), "its model 'a' is also in a.json; give one of them a name"),
        (("=a.json",), "no name stands before '='"),
        (("x/y=a.json",), "no id of a model can have it"),
        (("a.json", "gone.json"), "No such file"),
    ],
)
def test_what_cannot_be_merged_is_one_line(
    program: Program, folder: Path, words: tuple[str, ...], complaint: str
) -> None:
    ending = program.run("merge", *words, "-o", folder / "out")
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert complaint in ending.err
