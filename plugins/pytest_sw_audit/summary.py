"""What the run says about itself: one line at the start, one table at the end."""

from __future__ import annotations

import os

import pytest

from pytest_sw_audit.session import AuditSession
from sw_audit.runner.explain import TABLE_HEAD, count_verdicts, list_waived, make_row, name_outcome
from sw_audit.runner.output import tell_error

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "waived": "yellow", "skipped": "cyan"}


def write_header(session: AuditSession) -> str | None:
    """Write the line for the start of the run, if an audit is asked for and known by then."""
    known = [session.assignments[key] for key in session.offered]
    models = [case.model for assignment in known for case in assignment.cases]
    if not models:
        return None
    corpora = ", ".join(dict.fromkeys(assignment.policy.corpus.source for assignment in known))
    return f"sw-audit: {', '.join(models)} on corpus {corpora}"


def print_summary(reporter: pytest.TerminalReporter, session: AuditSession) -> None:
    """Print table and paths; under `-q` one line, under `-qq` nothing, and nothing where nothing was audited."""
    verdicts = session.list_verdicts()
    if session.trouble:
        reporter.write_line(f"sw-audit: {session.trouble}", red=True)
    if not verdicts or reporter.verbosity < -1:
        return
    if reporter.verbosity < 0:
        reporter.write_line(f"sw-audit: {count_verdicts(verdicts)}")
        return
    reporter.write_sep("=", f"sw-audit: {count_verdicts(verdicts)}")
    rows = [TABLE_HEAD, *(make_row(verdict) for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TABLE_HEAD))]
    styles = [{"bold": True}, *({_COLOURS[name_outcome(verdict)]: True} for verdict in verdicts)]
    for row, style in zip(rows, styles, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        reporter.write_line(line.rstrip(), **style)
    for line in list_waived(verdicts):
        reporter.write_line(line, yellow=True)
    for case, error in session.failures.items():
        reporter.write_line(f"{case.model}: not audited: {tell_error(error)}", red=True)
    for written in session.written:
        for kind, path in written.files.items():
            reporter.write_line(f"{kind}: {os.path.relpath(path, reporter.startpath)}")
    if session.interrupted:
        reporter.write_line("the run was broken off: no record was written", yellow=True)
