"""The compliance annex as a file of its own: evidence by expectation, what is not shown, and a place to sign."""

from __future__ import annotations

from sw_audit.record.record import Record
from sw_audit_reports.compliance import build_annex
from sw_audit_reports.html import render_template


def render_annex(record: Record) -> str:
    """Render the annex as one self-contained HTML page, to be printed and signed.

    It names which facts of the record are evidence towards which expectation, and claims of none that it is met.
    What the record does not show stands in the same row. What is signed by hand is named by the record's sha256.

    Args:
        record: The record of an audit.
    """
    return render_template("annex.html.j2", annex=build_annex(record))
