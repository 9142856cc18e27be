"""JUnit XML of a record: one test case per check on each model, as pytest writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sw_audit.checks.explain import end_case, list_properties
from sw_audit.checks.judging import list_checks
from sw_audit.printable import printable, printable_lines
from sw_audit.record.record import AuditedModel, ModelFailure, Record
from sw_audit.record.verdict import Verdict


def render_junit(record: Record) -> str:
    """Write a record's test cases; those of a policy file that was audited as it stands bear its name.

    A check on a model that could not be audited is an error. The time that a model took is that of its first case.
    """
    suites = Element("testsuites", name="sw-audit")
    suite = SubElement(suites, "testsuite", name="sw-audit")
    for part, model in [(one, model) for one in record.parts for model in one.models]:
        origin = part.origin
        prefix = "" if origin is None or not origin.whole else ".".join(PurePosixPath(origin.path).parts) + "."
        verdicts = {verdict.check: verdict for verdict in model.verdicts}
        for number, check in enumerate(verdicts or _list_unjudged(model, part)):
            seconds = 0.0 if number else getattr(model, "seconds", 0.0)
            classname = printable(f"{prefix}{model.id}")
            case = SubElement(suite, "testcase", classname=classname, name=printable(check), time=f"{seconds:.3f}")
            _fill_case(case, model, verdicts.get(check), part.policy.inconclusive)
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(1 for _ in suite.iter(tag))))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite):.3f}")
    suite.set("timestamp", printable(record.created))
    indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _list_unjudged(model: AuditedModel, record: Record) -> tuple[str, ...]:
    """List the checks that were asked of a model that could not be audited: those it names, else the policy's."""
    if not isinstance(model, ModelFailure) or model.checks:
        return getattr(model, "checks", ())
    named = next((one for one in record.policy.models if one.id == model.id), None)
    return tuple(check.id for check in list_checks(record.policy, named))


def _fill_case(case: Element, model: AuditedModel, verdict: Verdict | None, inconclusive: str) -> None:
    if verdict is None:
        message = getattr(model, "message", "not audited")
        _add(case, "error", {"message": message}, message)
        return
    properties = SubElement(case, "properties")
    for name, value in list_properties(verdict):
        SubElement(properties, "property", name=name, value=printable_lines(str(value)))
    ending, words = end_case(verdict, inconclusive)
    if ending == "fail":
        _add(case, "failure", {"message": words}, words)
    elif ending != "pass":
        _add(case, "skipped", {"type": f"pytest.{ending}", "message": words})


def _add(case: Element, tag: str, attributes: Mapping[str, str], text: str = "") -> None:
    element = SubElement(case, tag, {name: printable_lines(value) for name, value in attributes.items()})
    element.text = printable_lines(text) or None
