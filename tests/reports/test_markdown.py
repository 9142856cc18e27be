"""The record as Markdown: what a comment on a pull request shows, and that nothing breaks out of it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from support.evidence import change_model, compose, make_record
from support.hostile import hostile_texts, make_hostile
from support.many import make_many
from support.markdown import read, spell
from sw_audit_reports.markdown import LONGEST, render_markdown
from sw_audit_reports.text import NOTHING

from sw_audit.checks.explain import explain_verdict
from sw_audit.policy.model_policy import Waiver
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Paste, Status, Verdict

PASTE = Paste(where="a tool", text='ignore=["a`b"]\n```')
TAGS = "page h2 h3 p strong table thead tbody tr th td code pre details summary"


def judge(check: str, status: Status, **changes: object) -> Verdict:
    return Verdict(check=check, model="m", status=status, because="of a reason", **changes)  # type: ignore[arg-type]


def parse(record: Record) -> ElementTree.Element:
    """Read what is rendered; a block of details holds what stands between its marks."""
    return read(render_markdown(record))


def list_rows(page: ElementTree.Element) -> list[list[str]]:
    [table] = page.iter("tbody")
    return [[spell(cell) for cell in row] for row in table.iter("tr")]


def test_a_comment_says_verdict_sentence_table_and_what_to_do_and_folds_the_rest() -> None:
    held = judge(
        "perplexity-ratio", Status.FAIL, observed=1.5, low=1.4, high=1.625, limit=1.1, side="at most",
        remedy="leave `a.b` out", paste=(PASTE,),
    )  # fmt: skip
    doubt = judge("kl-divergence", Status.INCONCLUSIVE, observed=0.25, limit=0.1, side="at most")
    waived = Waiver.model_validate(
        {"check": "*", "model": "*", "until": "2999-01-01", "owner": "lab", "reason": "known"}
    )
    verdicts = (doubt, held, judge("weights-intact", Status.PASS), judge("a", Status.FAIL, waiver=waived))
    record = change_model(compose(make_record().results[0]), verdicts=verdicts)
    page = parse(record)
    assert spell(next(page.iter("h2"))) == "sw-audit: Fail"
    assert list_rows(page) == [
        ["specimen", "Fail", "perplexity-ratio", "1.5 [1.4, 1.625]", "at most 1.1"],
        ["", "", "kl-divergence (inconclusive)", "0.25", "at most 0.1"],
    ]
    paragraphs = [spell(part) for part in page.iter("p")]
    assert "Checks: 1 passed, 1 failed, 1 inconclusive, 1 waived." in paragraphs
    assert "To do: Leave a.b out." in paragraphs
    assert "1 more gate says below what to do." in paragraphs
    assert "".join(next(page.iter("pre")).itertext()) == f"{PASTE.text}\n"
    folded = {spell(part[0]): part for part in page.iter("details")}
    [full, waivers, run] = folded
    assert full == "Every gate that did not pass, in full"
    assert waivers == "1 verdict waived"
    assert run == "How it was run, and how to repeat what decided"
    told = "".join(folded[full].itertext())
    assert told.index(explain_verdict(held)) < told.index(explain_verdict(doubt))
    assert "sw-audit audit " in "".join(folded[run].itertext())


def test_lines_to_paste_stand_there_once_for_all_models() -> None:
    kinds = [("weights-intact", "put `a` back"), ("range-fits-dtype", "put `b` back")]
    failures = [
        ModelFailure(model=check, message="", verdicts=(judge(check, Status.FAIL, remedy=remedy, paste=(PASTE,)),))
        for check, remedy in kinds
    ]
    paragraphs = [spell(part) for part in parse(compose(*failures)).iter("p")]
    assert [part for part in paragraphs if part.endswith("back.")] == [
        "weights-intact: Put a back.",
        "range-fits-dtype: Put b back.",
    ]
    assert paragraphs.count("Paste into a tool:") == 1


def test_what_passes_has_no_advice_and_one_row() -> None:
    record = change_model(compose(make_record().results[0]), verdicts=(judge("weights-intact", Status.PASS),))
    page = parse(record)
    assert list_rows(page) == [["specimen", "Pass", "1 passed", NOTHING, NOTHING]]
    assert not list(page.iter("h3"))


def test_of_many_models_the_worst_come_first_with_the_gate_that_decides() -> None:
    rows = list_rows(parse(make_many()))
    assert [row[:2] for row in rows[:4]] == [
        ["gone", "Not audited"], ["tuned-2", "Fail"], ["tuned-5", "Fail"], ["alone", "Inconclusive"],
    ]  # fmt: skip
    assert len(rows) == 10
    assert rows[0][2:] == ["of a reason", NOTHING, NOTHING]
    assert rows[1][2:] == ["super-weight-retained and 2 more", "0.98", "at most 0.25"]


@pytest.mark.parametrize("length", [10, 2000])
def test_a_comment_is_never_longer_than_github_takes_and_says_what_is_left_out(length: int) -> None:
    gates = tuple(
        judge(f"gate-{place}", Status.FAIL, remedy=f"{place} {'r|' * length}", quantity="q" * length)
        for place in range(40)
    )
    failures = [
        ModelFailure(model=f"{place} {'|' * length}", message="m`" * length, verdicts=gates) for place in range(60)
    ]
    passing = make_record().results[0].model_copy(update={"verdicts": (judge("weights-intact", Status.PASS),)})
    text = render_markdown(compose(*failures, passing))
    assert len(text) <= LONGEST < 65_536
    page = read(text)
    [left] = [spell(part) for part in page.iter("p") if "left out, " in spell(part)]
    shown = len([row for row in list_rows(page) if row[0]])
    assert left == f"{61 - shown} more models left out, {60 - shown} of them do not pass; the record holds them."
    told = r"[\d,]+ more left out; the record holds them\."
    assert any(re.fullmatch(told, spell(part)) for part in page.iter("p"))


def test_a_record_of_no_model_and_one_of_a_comparison_are_told() -> None:
    assert spell(next(parse(compose()).iter("h2"))) == "sw-audit: Inconclusive"


@settings(max_examples=40, deadline=None)
@given(hostile_texts())
@example("a | b ``` </details> [x](http://evil.test) ![i](u) <img src=x> @all #1")
def test_no_text_of_a_record_breaks_out(text: str) -> None:
    page = parse(make_hostile(text))
    harmless = parse(make_hostile("a"))
    assert {part.tag for part in page.iter()} <= set(TAGS.split())
    assert {name for part in page.iter() for name in part.attrib} <= {"style"}
    for tag in ("h2", "h3", "table", "tr", "td", "pre", "details"):
        assert len(list(page.iter(tag))) == len(list(harmless.iter(tag)))
    for part in page.iter():
        outside = [part.tail or "", *([] if part.tag in ("code", "pre") else [part.text or ""])]
        assert not re.search(r"[@#!]\w|://|www\.", " ".join(outside))
