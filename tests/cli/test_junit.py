"""JUnit XML of an audit: one case per check, told as pytest tells it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from support.fake_runner import CHECKS, LAWS, count_statuses
from support.program import Program

from sw_audit.policy.origin import PolicyOrigin
from sw_audit.record.verdict import Status


def read_junit(program: Program) -> ElementTree.Element:
    return ElementTree.parse(program.folder / "sw-audit-out/junit.xml").getroot()  # noqa: S314 - written by this test


def list_cases(program: Program) -> dict[str, ElementTree.Element]:
    cases = read_junit(program).iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": case for case in cases}


def test_there_is_a_case_per_check_with_figures_failures_and_errors(quick: Program) -> None:
    quick.run("audit", "llama-w4", "broken", "gone", "control")
    [suite] = read_junit(quick)
    statuses = count_statuses("llama-w4") + count_statuses("broken") + count_statuses("control")
    assert suite.get("name") == "sw-audit"
    assert [int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")] == [
        4 * CHECKS, statuses[Status.FAIL], CHECKS, statuses[Status.SKIPPED],
    ]  # fmt: skip
    cases = list_cases(quick)
    properties = {one.get("name"): one.get("value") for one in cases["llama-w4::prune-collapses"].iter("property")}
    assert (properties["sw_audit.status"], properties["sw_audit.limit"]) == ("pass", "10.0")
    failure = cases["broken::prune-collapses"].find("failure")
    assert failure is not None
    assert str(failure.get("message")).startswith("FAIL broken prune-collapses: perplexity ratio 1.72")
    assert failure.text == failure.get("message")
    error = cases["gone::prune-collapses"].find("error")
    assert error is not None
    assert error.get("message") == "model 'gone': model.safetensors is truncated; copy it again"
    skipped = cases["control::prune-collapses"].find("skipped")
    assert skipped is not None
    assert skipped.get("type") == "pytest.skip"


def test_a_case_of_a_policy_file_bears_its_name_and_a_waiver_or_a_doubt_is_skipped(quick: Program) -> None:
    waiver = 'check = "prune-collapses"\nmodel = "*"\nuntil = 2999-12-31\nowner = "Ada"\nreason = "known"\n'
    (quick.folder / "it.swaudit.toml").write_text(
        f'inconclusive = "warn"\n[[model]]\nsource = "broken"\n[[model]]\nsource = "short"\n[[waiver]]\n{waiver}'
    )
    quick.run("audit", "it.swaudit.toml", "--check=prune-collapses", "--check=stopword-shift")
    waived = list_cases(quick)["it.swaudit.toml.broken::prune-collapses"].find("skipped")
    assert waived is not None
    assert waived.get("type") == "pytest.xfail"
    assert str(waived.get("message")).startswith("waived until 2999-12-31 by Ada: known (FAIL: ")
    doubt = list_cases(quick)["it.swaudit.toml.short::stopword-shift"].find("skipped")
    assert doubt is not None
    assert str(doubt.get("message")).startswith("INCONCLUSIVE: ")


def test_a_law_that_does_not_hold_is_a_case_that_was_expected_to_fail(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAWS, "yes")
    assert quick.run("audit", "broken", "--check=prune-collapses").code == 0
    law = list_cases(quick)["broken::prune-collapses"].find("skipped")
    assert law is not None
    assert law.get("type") == "pytest.xfail"
    assert str(law.get("message")).startswith("does not hold: With the super weights zeroed")
    assert quick.run("audit", "broken", "--check=prune-collapses", "--strict").code == 1
    failure = list_cases(quick)["broken::prune-collapses"].find("failure")
    assert failure is not None


def test_the_cases_of_several_policies_are_one_suite(quick: Program) -> None:
    for name in ("one", "two"):
        (quick.folder / f"{name}.swaudit.toml").write_text('[[model]]\nsource = "broken"\n')
    quick.run("audit", "one.swaudit.toml", "two.swaudit.toml", "--check=prune-collapses", "--check=stopword-shift")
    [suite] = read_junit(quick)
    names = [f"{name}.swaudit.toml.broken" for name in ("one", "one", "two", "two")]
    assert [case.get("classname") for case in suite] == names
    assert [int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")] == [4, 2, 0, 0]


def test_a_policy_for_models_that_are_named_says_where_limits_stand_and_names_no_case(quick: Program) -> None:
    (quick.folder / "it.swaudit.toml").write_text("\n[checks.prune-collapses]\nminimum_ratio = 5\n")
    quick.run("audit", "broken", "--policy=it.swaudit.toml", "--check=prune-collapses")
    assert list(list_cases(quick)) == ["broken::prune-collapses"]
    assert quick.record().origin == PolicyOrigin(path="it.swaudit.toml", checks={"prune-collapses": 2})


def test_without_a_policy_file_a_record_has_no_origin(quick: Program) -> None:
    quick.run("audit", "broken", "--check=prune-collapses")
    assert quick.record().origin is None


def test_the_document_is_what_render_makes_of_the_record(quick: Program) -> None:
    (quick.folder / "it.swaudit.toml").write_text(
        '[[model]]\nsource = "broken"\n[[model]]\nsource = "gone"\n[[model]]\nsource = "llama-w4"\n'
    )
    quick.run("audit", "it.swaudit.toml", "--check=prune-collapses", "--check=stopword-shift")
    written = (quick.folder / "sw-audit-out/junit.xml").read_text(encoding="utf-8")
    quick.run("render", "sw-audit-out/record.json", "--format=junit", "-o", "again.xml")
    assert (quick.folder / "again.xml").read_text(encoding="utf-8") == written
