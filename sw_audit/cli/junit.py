"""JUnit XML of several audits in one document, which test reports of CI expect."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import fromstring, indent, tostring

from sw_audit.record import rendering
from sw_audit.record.record import Record

_COUNTED = ("tests", "failures", "errors", "skipped")


def write_junit(records: Sequence[Record]) -> str:
    """Write the test cases of several records as one suite; see `render_junit`."""
    first, *others = [rendering.render_record(record, "junit") for record in records]
    if not others:
        return first
    document = fromstring(first)  # noqa: S314 - written above
    [suite] = document
    for text in others:
        [other] = fromstring(text)  # noqa: S314 - written above
        suite.extend(other)
        for name in _COUNTED:
            suite.set(name, str(int(suite.get(name, 0)) + int(other.get(name, 0))))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite):.3f}")
    indent(document)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(document, encoding="unicode")}\n'
