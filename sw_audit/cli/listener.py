"""What the command line hears of pytest's run, in place of pytest's own report."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sw_audit.record.verdict import Status, Verdict

if TYPE_CHECKING:
    from sw_audit.record.record import Record

PASSED, FAILED, BAD_INPUT, INCONCLUSIVE = 0, 1, 2, 3


class Listener:
    """A plugin of pytest that takes note.

    Attributes:
        records: The records of the run, one per policy.
        files: What was written, by kind: the paths, in order.
        explanations: What each item says that did not pass.
        complaints: Why something could not be audited or written, a line each.
        defects: Tracebacks of errors that nobody foresaw.
        interrupted: Whether the run was broken off.
    """

    def __init__(self, *, quiet: bool, debug: bool) -> None:
        self.records: list[Record] = []
        self.files: list[tuple[str, Path]] = []
        self.explanations: list[str] = []
        self.complaints: list[str] = []
        self.defects: list[str] = []
        self.interrupted = False
        self._quiet, self._debug = quiet, debug

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts of all records."""
        return [verdict for record in self.records for verdict in record.verdicts]

    @property
    def exit_code(self) -> int:
        """How the program ends: what could not be done weighs most, then a failure, then a doubt.

        Waived ones weigh nothing.
        """
        if self.interrupted or self.complaints or self.defects:
            return BAD_INPUT
        statuses = {verdict.status for verdict in self.verdicts if verdict.waiver is None}
        if Status.FAIL in statuses:
            return FAILED
        doubtful = any(
            verdict.status is Status.INCONCLUSIVE and record.policy.inconclusive == "fail"
            for record in self.records
            for verdict in record.verdicts
            if verdict.waiver is None
        )
        waived = any(verdict.waiver is not None for verdict in self.verdicts)
        return INCONCLUSIVE if doubtful or (statuses <= {Status.SKIPPED} and not waived) else PASSED

    @pytest.hookimpl(wrapper=True)
    def pytest_cmdline_main(self) -> Generator[None, object, object]:
        """Take usage errors before pytest prints them in its own way."""
        try:
            return (yield)
        except pytest.UsageError as error:
            self.complaints.append(str(error))
            return pytest.ExitCode.USAGE_ERROR

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Pass on what would be options of the terminal reporter, which is left out."""
        config.option.verbose = -1 if self._quiet else 0
        config.option.fulltrace = self._debug

    @pytest.hookimpl
    def pytest_sw_audit_recorded(self, record: Record, files: Mapping[str, Path], trouble: str | None) -> None:
        """Take a record."""
        self.records.append(record)
        self.files += files.items()
        if trouble:
            self.complaints.append(trouble)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what an item says that did not pass."""
        if not report.failed:
            return
        said = dict(report.user_properties)
        if "sw_audit.input" in said and not self._debug:
            self._complain(str(said["sw_audit.input"]))
        elif report.when == "call":
            self.explanations.append(report.longreprtext)
        else:
            self.defects.append(report.longreprtext)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take why a policy file could not be collected."""
        if report.failed:
            self._complain(report.longreprtext)

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Take note of Ctrl-C; pytest derives its own ways of stopping from KeyboardInterrupt."""
        self.interrupted |= excinfo.type is KeyboardInterrupt

    @pytest.hookimpl
    def pytest_internalerror(self, excrepr: object) -> bool:
        """Take a defect of the run itself."""
        self.defects.append(str(excrepr))
        return True

    def _complain(self, line: str) -> None:
        if line not in self.complaints:
            self.complaints.append(line)
