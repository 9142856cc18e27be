"""The files of a run: one record per policy, written whole at the end or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_sw_audit.assignments import Assignment, Case
from pytest_sw_audit.session import AuditSession, tell_error

if TYPE_CHECKING:
    from sw_audit.record.record import ModelFailure, ModelResult, Record


@dataclass(frozen=True)
class WrittenRecord:
    """One record and where it lies.

    Attributes:
        record: The record.
        files: `record`, and `report` and `baseline` if they were asked for.
    """

    record: Record
    files: dict[str, Path]


@dataclass
class RunOutput:
    """What the run leaves behind.

    Attributes:
        entries: The records.
        trouble: Why nothing, or not everything, could be written; one line.
    """

    entries: list[WrittenRecord] = field(default_factory=list)
    trouble: str | None = None


LEDGER = pytest.StashKey[RunOutput]()


class Interruption:
    """Takes note when the run is broken off; stopping at a failure, as `-x` does, is no such thing."""

    def __init__(self, desk: AuditSession) -> None:
        self._desk = desk

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C, or `pytest.exit`; pytest derives its own ways of stopping from KeyboardInterrupt."""
        if excinfo.type is KeyboardInterrupt or issubclass(excinfo.type, pytest.exit.Exception):
            self._desk.interrupted = True

    @pytest.hookimpl
    def pytest_internalerror(self) -> None:
        """A defect, here or on a worker."""
        self._desk.interrupted = True


def examine_folder(folder: Path) -> None:
    """Make sure that files can be written into a folder, and leave no trace of having tried.

    Raises:
        OutputError: If they cannot.
    """
    from sw_audit.record.store import check_writable

    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(folder)
    finally:
        for place in missing:
            if place.is_dir():
                place.rmdir()


def write_ledger(config: pytest.Config, desk: AuditSession) -> RunOutput:
    """Write every record of the run, unless the run was interrupted or nothing was audited.

    What goes wrong is told by the ledger and not raised: a long measurement is not to be lost over a page.
    """
    ledger = RunOutput()
    if desk.interrupted:
        return ledger
    audited = [one for one in desk.assignments.values() if any(case in desk.results for case in _gated(desk, one))]
    for assignment, folder in zip(audited, _name_folders(desk.settings.out, audited), strict=True):
        entry = WrittenRecord(compose(config, desk, assignment), {})
        ledger.entries.append(entry)
        trouble = None
        try:
            _write(entry, folder, report=desk.settings.report)
            _keep(entry, desk.settings.save, assignment.name if len(audited) > 1 else None)
        except Exception as error:
            trouble = ledger.trouble = tell_error(error)
        config.hook.pytest_sw_audit_recorded(
            config=config, record=entry.record, files=entry.files, trouble=trouble
        )
    return ledger


def compose(config: pytest.Config, desk: AuditSession, assignment: Assignment) -> Record:
    """Put the results of one policy into a record; a model that was not reached is among its failures."""
    from sw_audit.runner.run import compose_record

    gated = _gated(desk, assignment)
    record = compose_record((_take_model(desk, case) for case in gated), assignment.policy)
    changed: Record | None = config.hook.pytest_sw_audit_modify_record(config=config, record=record)
    return changed or record


def _take_model(desk: AuditSession, case: Case) -> ModelResult | ModelFailure:
    from sw_audit.record.record import ModelFailure

    if case in desk.results:
        verdicts = [desk.find_verdict(case, check) for check in desk.gated[case]]
        return desk.results[case].model_copy(update={"verdicts": tuple(verdicts)})
    error = desk.failures.get(case)
    unreached = "not audited: the run ended before this model was reached"
    return ModelFailure(model=case.model, message=tell_error(error) if error else unreached)


def _gated(desk: AuditSession, assignment: Assignment) -> list[Case]:
    return [case for case in assignment.cases if case in desk.gated]


def _name_folders(out: Path, assignments: list[Assignment]) -> Iterator[Path]:
    """Yield `out` for the only assignment, else a folder in it for each; a name that comes again is numbered."""
    taken: list[str] = []
    for assignment in assignments:
        taken.append(assignment.name)
        again = taken.count(assignment.name)
        name = assignment.name if again == 1 else f"{assignment.name}-{again}"
        yield out / name if len(assignments) > 1 else out


def _write(entry: WrittenRecord, folder: Path, *, report: bool) -> None:
    from sw_audit.record.codec import encode_record
    from sw_audit.record.rendering import render_record
    from sw_audit.record.store import check_writable, write_text

    check_writable(folder)
    write_text(folder / "record.json", encode_record(entry.record))
    entry.files["record"] = folder / "record.json"
    if report:
        write_text(folder / "report.html", render_record(entry.record, "html"))
        entry.files["report"] = folder / "report.html"


def _keep(entry: WrittenRecord, name: str | None, among: str | None) -> None:
    """Keep a record as a baseline, if that is asked for; of several, each under its policy's name too."""
    from sw_audit.record.baselines import keep_baseline

    if name:
        entry.files["baseline"] = keep_baseline(f"{name}-{among}" if among else name, entry.record)
