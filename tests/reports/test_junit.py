"""JUnit XML of a record alone, held against the schema of Jenkins' xUnit plugin.

One thing is added to it: properties in a test case, which pytest writes and GitLab and Jenkins' JUnit plugin read.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
import xmlschema
from hypothesis import given, settings
from support.evidence import compose, make_record
from support.hostile import hostile_texts, make_hostile
from sw_audit_reports.junit import render_junit

from sw_audit.checks.judging import list_checks
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelFailure, Record

_CASE = '<xs:element name="testcase">\n        <xs:complexType>\n            <xs:sequence>\n'
_PUBLISHED = (Path(__file__).parent / "schemas" / "junit-10.xsd").read_text(encoding="utf-8")
assert _CASE in _PUBLISHED
SCHEMA = xmlschema.XMLSchema(
    _PUBLISHED.replace(_CASE, f'{_CASE}<xs:element ref="properties" minOccurs="0"/>\n').encode()
)


def list_cases(record: Record) -> list[Element]:
    return list(fromstring(render_junit(record)).iter("testcase"))  # noqa: S314 - written by this test


def test_the_document_is_valid_and_counts_what_it_holds() -> None:
    record = make_record(windows=8, items=8)
    text = render_junit(record)
    SCHEMA.validate(text)
    [suite] = fromstring(text)  # noqa: S314 - written by this test
    assert int(suite.get("tests", "")) == len(record.verdicts) + sum(
        len(list_checks(record.policy)) for model in record.failures if not model.verdicts
    )
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name, "")) == len(list(suite.iter(tag)))


def test_a_model_that_could_not_be_audited_is_an_error_in_each_check_that_was_asked_of_it() -> None:
    failure = ModelFailure(model="gone", message="no such file", checks=("prune-collapses",))
    [case] = list_cases(compose(failure))
    assert (case.get("classname"), case.get("name")) == ("gone", "prune-collapses")
    assert [one.get("message") for one in case] == ["no such file"]


def test_without_their_names_those_of_the_policy_are_errors() -> None:
    policy = Policy.model_validate({"model": [{"source": "gone", "parent": "base"}]})
    cases = list_cases(compose(ModelFailure(model="gone", message="no such file"), policy=policy))
    assert [case.get("name") for case in cases] == [check.id for check in list_checks(policy)]


@pytest.mark.parametrize(("whole", "name"), [(True, "ci.it.swaudit.toml.gone"), (False, "gone")])
def test_a_case_bears_the_name_of_a_policy_file_that_was_audited_as_it_stands(whole: bool, name: str) -> None:
    failure = ModelFailure(model="gone", message="no such file", checks=("prune-collapses",))
    [case] = list_cases(compose(failure, origin=PolicyOrigin(path="ci/it.swaudit.toml", whole=whole)))
    assert case.get("classname") == name


@settings(deadline=None, max_examples=30)
@given(hostile_texts())
def test_whatever_a_record_holds_the_document_is_valid(text: str) -> None:
    rendered = render_junit(make_hostile(text))
    SCHEMA.validate(rendered)
    assert len(fromstring(rendered)[0].findall("testcase")) == 5  # noqa: S314 - written by this test


def test_control_characters_are_shown_as_escapes() -> None:
    cases = list_cases(make_hostile("a\x1b[31m\a\ufffe\u202e\ud800z"))
    shown = r"a\x1b[31m\x07\ufffe\u202e\ud800z"
    assert {case.get("classname") for case in cases} == {f"{shown}.{shown}", f"{shown}.{shown} gone"}
