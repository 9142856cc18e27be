"""`sw-audit render`: a record in another form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.evidence import compose, judge_model, make_evidence, make_policy
from support.many import make_many
from support.program import Program

from sw_audit.record import rendering
from sw_audit.record.store import encode_record, read_record, write_text
from sw_audit.runner.options import FORMATS

POLICY = make_policy("a")
RECORD = encode_record(compose(judge_model(make_evidence("a", windows=4), POLICY), policy=POLICY))


def render(program: Program, change: Any) -> tuple[int, list[str]]:
    document = json.loads(RECORD)
    change(document)
    (program.folder / "record.json").write_text(json.dumps(document))
    ending = program.run("render", "record.json", "-o", "page.html", "--unverified")
    return ending.code, ending.complaints


def forge(*place: str | int, value: object) -> Any:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (forge("models", 0, "model", "id", value="renamed"), 0),
        (forge("models", 0, "model", "source", value=""), 0),
        (forge("models", 0, "seconds", value=-1), 2),
        (forge("models", 0, "seconds", value=1e308), 0),
        (forge("models", 0, "location", "super_weights", 0, "share", value=1e308), 0),
        (forge("models", 0, "location", "trace", 0, "residual", value=1e308), 0),
        (forge("models", 0, "verdicts", value=[]), 0),
    ],
)
def test_a_forged_record_is_rendered_or_refused_in_one_line(program: Program, change: Any, code: int) -> None:
    ended, complaints = render(program, change)
    assert ended in (code, 2)
    assert len(complaints) == (0 if ended == 0 else 1)


def test_facts_that_do_not_fit_together_are_one_line(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_rest: object) -> str:
        raise KeyError("a name that nothing has")

    monkeypatch.setattr(rendering, "render_record", fail)
    code, [line] = render(program, forge("created", value="now"))
    assert code == 2
    assert "what it holds does not fit together (KeyError: 'a name that nothing has')" in line


def test_one_model_of_several_is_rendered_alone(program: Program) -> None:
    write_text(program.folder / "record.json", encode_record(make_many()))
    ending = program.run("render", "record.json", "--model", "tuned-3", "--unverified", "-o", "page.html")
    assert ending.code == 0
    assert [model.id for model in read_record(program.folder / "page.html").models] == ["tuned-3"]
    wrong = program.run("render", "record.json", "--model", "tuned-33", "--unverified", "-o", "page.html")
    assert wrong.code == 2
    assert wrong.complaints == [
        "sw-audit: record record.json: it holds no model 'tuned-33'; did you mean 'tuned-3'?"
    ]


def test_the_help_names_every_format_and_an_audit_writes_each_straight_from_a_run(program: Program) -> None:
    assert set(rendering.list_formats()) == {"html", "junit", *FORMATS}
    told = " ".join(program.run("render", "--help").out.split())
    assert ", ".join(rendering.list_formats()) in told


@pytest.mark.parametrize("form", [*FORMATS, "junit"])
def test_a_form_is_written_to_standard_output(program: Program, form: str) -> None:
    place = program.folder / "record.json"
    place.write_text(RECORD)
    ending = program.run("render", "record.json", "--format", form, "-o", "-")
    assert (ending.code, ending.out) == (0, rendering.render_record(read_record(place), form))
