"""JUnit XML of an audit: one test case per check on each model, as pytest writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sw_audit.checks.explain import end_case, list_properties
from sw_audit.printable import printable, printable_lines
from sw_audit.record.record import AuditedModel, Record
from sw_audit.record.verdict import Verdict
from sw_audit.runner.assignments import OPTIONS_KEY, Assignment


def write_junit(audited: Sequence[tuple[Assignment, Record]], root: Path) -> str:
    """Write the test cases of several audits as one document; policy files are named from a root folder."""
    suites = Element("testsuites", name="sw-audit")
    suite = SubElement(suites, "testsuite", name="sw-audit")
    for assignment, record in audited:
        prefix = ""
        if assignment.key != OPTIONS_KEY:
            path = Path(assignment.key)
            prefix = ".".join((path.relative_to(root) if path.is_relative_to(root) else path).parts) + "."
        for model in record.models:
            verdicts = {verdict.check: verdict for verdict in model.verdicts}
            for number, check in enumerate(assignment.checks[model.id]):
                seconds = 0.0 if number else getattr(model, "seconds", 0.0)
                case = SubElement(
                    suite,
                    "testcase",
                    classname=printable(f"{prefix}{model.id}"),
                    name=check,
                    time=f"{seconds:.3f}",
                )
                _fill_case(case, model, verdicts.get(check), record.policy.inconclusive)
    counts = {tag: len(list(suite.iter(tag))) for tag in ("testcase", "failure", "error", "skipped")}
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(counts[tag]))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite):.3f}")
    if audited:
        suite.set("timestamp", audited[0][1].created)
    indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(suites, encoding="unicode")}\n'


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
