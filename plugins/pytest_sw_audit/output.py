"""The files of a run: one record per policy, written whole at the end or not at all."""

from __future__ import annotations

import pytest

from pytest_sw_audit.session import AuditSession
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.runner.assignments import Assignment, Case
from sw_audit.runner.output import name_folders, tell_error, write_record
from sw_audit.runner.run import compose_record


def write_records(config: pytest.Config, session: AuditSession) -> None:
    """Write every record of the run, unless the run was interrupted or nothing was audited."""
    if session.interrupted:
        return
    audited = [
        assignment
        for assignment in session.assignments.values()
        if any(case in session.results for case in _list_gated(session, assignment))
    ]
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
    models = (_take_model(session, case) for case in _list_gated(session, assignment))
    record = compose_record(models, assignment.policy)
    changed: Record | None = config.hook.pytest_sw_audit_modify_record(config=config, record=record)
    return changed or record


def _take_model(session: AuditSession, case: Case) -> ModelResult | ModelFailure:
    if case in session.results:
        verdicts = [session.find_verdict(case, check) for check in session.gated[case]]
        return session.results[case].model_copy(update={"verdicts": tuple(verdicts)})
    error = session.failures.get(case)
    unreached = "not audited: the run ended before this model was reached"
    return ModelFailure(model=case.model, message=tell_error(error) if error else unreached)


def _list_gated(session: AuditSession, assignment: Assignment) -> list[Case]:
    return [case for case in assignment.cases if case in session.gated]
