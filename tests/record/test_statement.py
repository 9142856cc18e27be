"""The statement of a record, held against the forms that in-toto publishes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from support.descent import make_descent_evidence
from support.evidence import compose, make_evidence, make_record
from support.hostile import hostile_texts, make_hostile

from sw_audit.policy.model_policy import Level, Waiver
from sw_audit.record.digest import digest_document, write_canonical
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.statement import make_statement
from sw_audit.record.verdict import Status, Verdict

FORMS = Path(__file__).parent / "data" / "in-toto"
_FIELD = re.compile(
    r'^\s+((?:repeated )?[\w.]+|map<string, string>) (\w+) = \d+(?: \[json_name = "(\w+)"\])?;', re.M
)
WAIVER = Waiver(check="a", model="m", until=date(2999, 1, 1), owner="Ada", reason="known")


def read_form(name: str) -> dict[str, str]:
    """Return the fields of a published form, as they are called in JSON, and their types."""
    fields = _FIELD.findall((FORMS / f"{name}.proto").read_text(encoding="utf-8"))
    assert fields
    return {said or re.sub("_(.)", lambda found: found[1].upper(), own): kind for kind, own, said in fields}


def check_form(value: Mapping[str, Any], name: str) -> None:
    """Hold a value against a published form: every field is known, and of its type."""
    form = read_form(name)
    assert value.keys() <= form.keys()
    for key, part in value.items():
        kind = form[key]
        parts = part if kind.startswith("repeated") else [part]
        for one in parts:
            if kind.endswith("ResourceDescriptor"):
                check_form(one, "resource_descriptor")
                assert one.keys() & {"uri", "digest", "content"}
            elif kind.endswith("string"):
                assert isinstance(one, str)
            elif kind.startswith("map"):
                assert all(isinstance(text, str) for text in one.values())
            else:
                assert isinstance(one, dict)


def read(record: Record) -> dict[str, Any]:
    """Write, hold against the forms, and return the statement."""
    statement: dict[str, Any] = json.loads(write_canonical(make_statement(record)))
    check_form(statement, "statement")
    check_form(statement["predicate"], "test_result")
    assert {"result", "configuration"} <= statement["predicate"].keys()
    assert statement["subject"]
    assert all(one["digest"] for one in statement["subject"])
    assert statement["predicate"]["result"] in ("PASSED", "WARNED", "FAILED")
    return statement


def judge(status: Status, level: Level = "gate", **changes: Any) -> Verdict:
    return Verdict(check=f"{level}-{status}", model="m", status=status, level=level, because="so", **changes)


def judge_all(*verdicts: Verdict) -> dict[str, Any]:
    predicate: dict[str, Any] = read(compose(make_evidence("m").model_copy(update={"verdicts": verdicts})))[
        "predicate"
    ]
    return {key: value for key, value in predicate.items() if key != "configuration"}


def canonical(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_the_forms_are_read_as_they_are_published() -> None:
    assert read_form("statement").keys() == {"_type", "subject", "predicateType", "predicate"}
    assert "downloadLocation" in read_form("resource_descriptor")
    assert read_form("test_result")["passedTests"] == "repeated string"


def test_subjects_are_the_weight_files_of_model_and_parent() -> None:
    pair = make_descent_evidence()
    assert pair.descent is not None
    statement = read(compose(pair))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == [
        {"name": f"{one.id}/model.safetensors", "digest": {"sha256": one.files[0].sha256}}
        for one in (pair.model, pair.descent.parent)
    ]


def test_of_a_record_without_digested_weights_the_record_is_the_subject() -> None:
    record = compose(ModelFailure(model="gone", message="no such folder"))
    statement = read(record)
    [subject] = statement["subject"]
    assert subject == statement["predicate"]["configuration"][0]
    assert statement["predicate"]["failedTests"] == ["gone:not-audited"]


def test_the_configuration_is_record_policy_texts_tool_and_environment() -> None:
    record = compose(make_descent_evidence())
    document = record.model_dump(mode="json", by_alias=True)
    text = record.results[0].protocol.corpus
    itself, policy, *texts, tool, environment = read(record)["predicate"]["configuration"]
    assert itself == {"name": "record", "digest": {"sha256": canonical(document)}}
    assert itself["digest"]["sha256"] == digest_document(document).sha256
    assert policy == {"name": "policy", "digest": {"sha256": canonical(document["policy"])}}
    assert {"name": f"text/{text.name}", "digest": {"sha256": text.sha256}} in texts
    assert tool == {"name": "tool", "uri": f"pkg:pypi/sw-audit@{record.tool.version}"}
    assert environment["digest"] == {"sha256": canonical(document["environment"])}
    assert environment["annotations"]["packages"]["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("verdict", "place", "result"),
    [
        (judge(Status.PASS), "passedTests", "PASSED"),
        (judge(Status.FAIL), "failedTests", "FAILED"),
        (judge(Status.INCONCLUSIVE), "warnedTests", "WARNED"),
        (judge(Status.FAIL, waiver=WAIVER), "warnedTests", "WARNED"),
        (judge(Status.PASS, "law"), "passedTests", "PASSED"),
        (judge(Status.FAIL, "law"), "warnedTests", "PASSED"),
        (judge(Status.INCONCLUSIVE, "law"), "warnedTests", "PASSED"),
    ],
)
def test_a_verdict_is_listed_where_it_belongs(verdict: Verdict, place: str, result: str) -> None:
    passing = judge(Status.PASS).model_copy(update={"check": "other"})
    lists: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    lists[place].append(f"m:{verdict.check}")
    lists["passedTests"].append("m:other")
    assert judge_all(verdict, passing) == {"result": result, **lists}


def test_a_skipped_check_is_no_test_and_nothing_but_skipped_ones_no_pass() -> None:
    none = {"passedTests": [], "warnedTests": [], "failedTests": []}
    assert judge_all(judge(Status.SKIPPED)) == {"result": "WARNED", **none}


def test_a_model_that_was_not_audited_fails_the_checks_that_were_asked_of_it() -> None:
    skipped = judge(Status.SKIPPED)
    failure = ModelFailure(model="gone", message="x", checks=("a", "b"), verdicts=(skipped,))
    predicate = read(compose(failure))["predicate"]
    assert predicate["result"] == "FAILED"
    assert predicate["failedTests"] == ["gone:a", "gone:b"]


def test_any_change_of_the_record_changes_its_statement() -> None:
    record = make_record(windows=8, items=8)
    assert make_statement(record) == make_statement(record.model_copy())
    document = record.model_dump(mode="json", by_alias=True)
    assert make_statement(record) == make_statement(record, {**document, "digest": "which does not count"})
    assert make_statement(record.model_copy(update={"created": "2026-01-02"})) != make_statement(record)


@settings(deadline=None, max_examples=30)
@given(hostile_texts())
def test_whatever_a_record_holds_the_statement_is_printable_ascii(text: str) -> None:
    record = make_hostile(text)
    assert read(record)["predicate"]["failedTests"]
    written = write_canonical(make_statement(record))
    assert written.isascii()
    assert written.isprintable()
