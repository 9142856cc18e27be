"""What the run says about itself: one line at the start, one table at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_sw_audit.explain import write_figure, write_limit
from pytest_sw_audit.output import RunOutput
from pytest_sw_audit.session import AuditSession, tell_error

if TYPE_CHECKING:
    from sw_audit.record.verdict import Verdict

_HEAD = ("model", "check", "status", "observed [low, high]", "limit")
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "waived": "yellow", "skipped": "cyan"}


def write_header(desk: AuditSession) -> str | None:
    """Write the line for the start of the run, if an audit is asked for and known by then."""
    known = [desk.assignments[key] for key in desk.offered]
    models = [case.model for one in known for case in one.cases]
    if not models:
        return None
    corpora = ", ".join(dict.fromkeys(one.policy.corpus.source for one in known))
    return f"sw-audit: {', '.join(models)} on corpus {corpora}"


def list_verdicts(desk: AuditSession) -> list[Verdict]:
    """Return the verdicts of this run's items, in order, as far as they were reached."""
    return [
        desk.find_verdict(case, check)
        for case, checks in desk.gated.items()
        if case in desk.results
        for check in checks
    ]


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Write how many there are of each status, such as `9 pass, 1 fail, 1 waived`."""
    counts = Counter(_name_status(verdict) for verdict in verdicts)
    return ", ".join(f"{counts[status]} {status}" for status in _COLOURS if counts[status])


def _name_status(verdict: Verdict) -> str:
    return str(verdict.status) if verdict.waiver is None else "waived"


def tabulate_verdicts(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """Lay the verdicts out as a table.

    Returns:
        Its lines, the head first, each with the status that colours it (empty for the head).
    """
    rows = [_HEAD, *(_make_row(verdict) for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return list(zip(lines, ["", *(_name_status(verdict) for verdict in verdicts)], strict=True))


def print_summary(reporter: pytest.TerminalReporter, desk: AuditSession, ledger: RunOutput) -> None:
    """Print table and paths; under `-q` one line, under `-qq` nothing, and nothing where nothing was audited."""
    verbosity = reporter.verbosity
    verdicts = list_verdicts(desk)
    if ledger.trouble:
        reporter.write_line(f"sw-audit: {ledger.trouble}", red=True)
    if not verdicts or verbosity < -1:
        return
    if verbosity < 0:
        reporter.write_line(f"sw-audit: {count_verdicts(verdicts)}")
        return
    reporter.write_sep("=", f"sw-audit: {count_verdicts(verdicts)}")
    for line, status in tabulate_verdicts(verdicts):
        reporter.write_line(line, **({_COLOURS[status]: True} if status else {"bold": True}))
    for verdict in verdicts:
        if verdict.waiver is not None:
            reporter.write_line(f"waived {verdict.model} {verdict.check} {verdict.waiver}", yellow=True)
    for case, error in desk.failures.items():
        reporter.write_line(f"{case.model}: not audited: {tell_error(error)}", red=True)
    for entry in ledger.entries:
        for kind, path in entry.files.items():
            reporter.write_line(f"{kind}: {os.path.relpath(path, reporter.startpath)}")
    if desk.interrupted:
        reporter.write_line("the run was broken off: no record was written", yellow=True)


def _make_row(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.model,
        verdict.check,
        f"{verdict.status.upper()}{'' if verdict.waiver is None else ' (waived)'}",
        write_figure(verdict) or "-",
        write_limit(verdict) or "-",
    )
