"""The record as plain text: what the terminal says, and nothing that drives one."""

from __future__ import annotations

from hypothesis import given, settings
from support.evidence import compose, make_record
from support.hostile import hostile_texts, make_hostile
from support.many import make_many
from sw_audit_reports.plain_text import render_text

from sw_audit.checks.explain import count_verdicts, explain_verdict
from sw_audit.printable import printable_lines
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status, Verdict


def test_the_text_holds_models_a_table_what_does_not_pass_in_full_and_how_it_ended() -> None:
    record = make_record()
    text = render_text(record)
    lines = text.splitlines()
    assert lines[0] == "specimen"
    assert lines[1].startswith("  llama, ")
    [head] = [line for line in lines if line.startswith("model ")]
    column = head.index("check")
    table = lines[lines.index(head) + 1 :][: len(record.verdicts)]
    assert [line[column:].split()[0] for line in table] == [verdict.check for verdict in record.verdicts]
    failed = [one for one in record.verdicts if one.status is Status.FAIL and one.level == "gate"]
    assert failed
    assert all(explain_verdict(verdict) in text for verdict in failed)
    [gone] = record.failures
    assert f"{gone.id}: not audited: {gone.message}" in lines
    assert lines[-1] == f"NOT COMPLETE: {count_verdicts(record.verdicts)}"


def test_of_many_models_the_worst_come_first_and_the_others_are_counted() -> None:
    lines = render_text(make_many()).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["model", "gone", "tuned-2", "tuned-5"]
    assert lines[4].startswith("alone ")
    assert "6 of 10 models pass" in lines


def test_a_model_that_was_stopped_before_it_was_measured_leaves_the_audit_inconclusive() -> None:
    doubt = Verdict(check="c", model="m", status=Status.INCONCLUSIVE, because="so")
    stopped = ModelFailure(model="m", message="late", stopped="time was up", verdicts=(doubt,))
    assert render_text(compose(stopped)).endswith("m: not audited: late\n\nINCONCLUSIVE: 1 inconclusive\n")
    assert render_text(compose()) == "NOTHING AUDITED\n"


@settings(max_examples=30, deadline=None)
@given(hostile_texts())
def test_nothing_in_a_record_drives_a_terminal(text: str) -> None:
    shown = render_text(make_hostile(text))
    assert printable_lines(shown) == shown
    assert shown.encode()
