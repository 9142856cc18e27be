"""What a run leaves and says: a record per policy, written whole at the end, a header, a table."""

from __future__ import annotations

import os

import pytest

from pytest_sw_audit.session import AuditSession
from sw_audit.checks.explain import (
    MODELS_HEAD,
    TABLE_HEAD,
    align,
    count_verdicts,
    list_waived,
    list_worst,
    make_row,
    name_outcome,
)
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.redaction import describe_redactions
from sw_audit.record.standing import FEW_MODELS
from sw_audit.runner.assignments import Assignment, Case
from sw_audit.runner.output import name_folders, tell_error, tidy_cache, write_record
from sw_audit.runner.run import compose_record, fail_stopped, redact_record
from sw_audit.runner.text import settle_corpus

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "waived": "yellow", "skipped": "cyan"}
_COLOURS |= {"holds": "green", "does not hold": "yellow", "undecided": "yellow"}


def write_records(config: pytest.Config, session: AuditSession) -> None:
    """Write every record of the run, unless the run was broken off or nothing was audited.

    After Ctrl-C, and after SIGTERM while a model was measured, what was not measured is inconclusive.
    """
    if session.interrupted:
        return
    audited = [
        assignment
        for assignment in session.assignments.values()
        if any(case in session.results or session.stopped for case in _list_gated(session, assignment))
    ]
    tidy_cache(session.find_cache(), session.settings)
    folders = name_folders(session.settings.out, [assignment.name for assignment in audited])
    for assignment, folder in zip(audited, folders, strict=True):
        record = compose(config, session, assignment)
        written = write_record(record, folder, session.settings, assignment.name if len(audited) > 1 else None)
        session.written.append(written)
        session.trouble = written.trouble or session.trouble
        config.hook.pytest_sw_audit_recorded(
            config=config, record=record, files=written.files, trouble=written.trouble
        )


def compose(config: pytest.Config, session: AuditSession, assignment: Assignment) -> Record:
    """Put the models of one policy into a record; one that was not reached is a failure."""
    models = (_take_model(session, assignment, case) for case in _list_gated(session, assignment))
    record = compose_record(models, assignment.policy, assignment.origin)
    changed: Record | None = config.hook.pytest_sw_audit_modify_record(config=config, record=record)
    return redact_record(changed or record)


def _take_model(session: AuditSession, assignment: Assignment, case: Case) -> ModelResult | ModelFailure:
    if case in session.results:
        verdicts = [session.find_verdict(case, check) for check in session.gated[case]]
        return session.results[case].model_copy(update={"verdicts": tuple(verdicts)})
    error = session.failures.get(case)
    if error is None and session.stopped is not None:
        return fail_stopped(assignment.policy, case.model, session.gated[case], session.stopped)
    unreached = "not audited: the run ended before this model was reached"
    message, checks = tell_error(error) if error else unreached, tuple(session.gated[case])
    return ModelFailure(model=case.model, message=message, checks=checks)


def _list_gated(session: AuditSession, assignment: Assignment) -> list[Case]:
    return [case for case in assignment.cases if case in session.gated]


def write_header(session: AuditSession) -> str | None:
    """Write the line for the start of the run, if an audit is asked for and known by then."""
    known = [session.assignments[key] for key in session.offered]
    models = [case.model for assignment in known for case in assignment.cases]
    if not models:
        return None
    texts = (settle_corpus(each.policy, model).corpus.source for each in known for model in each.policy.models)
    return f"sw-audit: {', '.join(models)} on corpus {', '.join(dict.fromkeys(texts))}"


def print_summary(reporter: pytest.TerminalReporter, session: AuditSession) -> None:
    """Print table and paths; under `-q` one line, under `-qq` nothing, and nothing where nothing was audited."""
    verdicts = session.list_verdicts()
    if session.trouble:
        reporter.write_line(f"sw-audit: {session.trouble}", red=True)
    if session.stopped and session.written:
        reporter.write_line(f"sw-audit: {session.stopped}; what is not decided is inconclusive", yellow=True)
    for written in session.written:
        if written.remark:
            reporter.write_line(f"sw-audit: {written.remark}", yellow=True)
    if not (verdicts or session.written) or reporter.verbosity < -1:
        return
    if reporter.verbosity < 0:
        reporter.write_line(f"sw-audit: {count_verdicts(verdicts)}")
        return
    reporter.write_sep("=", f"sw-audit: {count_verdicts(verdicts)}")
    reached = [session.results[case] for case in session.gated if case in session.results]
    if len(reached) > FEW_MODELS and reporter.verbosity < 1:
        worst, others = list_worst(reached)
        tables = [([MODELS_HEAD, *rows], [{"bold": True}, *({"red": True} for _ in rows)]) for rows in worst]
    else:
        rows, others = [TABLE_HEAD, *(make_row(verdict) for verdict in verdicts)], ""
        styles = [{"bold": True}, *({_COLOURS[name_outcome(verdict)]: True} for verdict in verdicts)]
        tables = [(rows, styles)]
    for rows, styles in tables:
        for line, style in zip(align(rows), styles, strict=True):
            reporter.write_line(line, **style)
    if others:
        reporter.write_line(f"{others}; everything is in the report, and here with -v")
    for line in list_waived(verdicts):
        reporter.write_line(line, yellow=True)
    for case, error in session.failures.items():
        reporter.write_line(f"{case.model}: not audited: {tell_error(error)}", red=True)
    for written in session.written:
        for kind, path in written.files.items():
            reporter.write_line(f"{kind}: {os.path.relpath(path, reporter.startpath)}")
        if written.record.redacted:
            reporter.write_line(f"redacted: {describe_redactions(written.record.redacted)}")
    if session.interrupted:
        reporter.write_line("the run was broken off: no record was written", yellow=True)
