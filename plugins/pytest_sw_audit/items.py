"""How an audit becomes test cases: a policy file, its models, and one item per check and model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sw_audit.session import AuditSession
from pytest_sw_audit.state import find_session
from sw_audit.checks.explain import end_case, list_properties
from sw_audit.errors import AuditError
from sw_audit.policy.policy import Policy
from sw_audit.record.redaction import redact, redact_text
from sw_audit.record.verdict import Verdict
from sw_audit.runner.assignments import OPTIONS_KEY, Assignment, Case
from sw_audit.runner.output import tell_error


class VerdictError(Exception):
    """A verdict that fails its item; the message is the whole explanation."""


class PolicyFile(pytest.File):
    """A `*.swaudit.toml` file."""

    def collect(self) -> Iterator[AuditedModel]:
        """Yield the policy's models.

        Raises:
            CollectError: If the policy or a model cannot be used; one line.
        """
        try:
            assignment = find_session(self.config).assign_file(self.path)
        except AuditError as error:
            raise self.CollectError(tell_error(error)) from error
        for case in assignment.cases:
            yield AuditedModel.from_parent(self, name=case.model, assignment=assignment, case=case)


class AuditedModel(pytest.Collector):
    """One model of a policy."""

    def __init__(self, assignment: Assignment, case: Case, **rest: Any) -> None:
        super().__init__(**rest)
        self.assignment = assignment
        self.case = case

    def collect(self) -> Iterator[AuditItem]:
        """Yield one item per check."""
        for check in self.assignment.checks[self.case.model]:
            yield AuditItem.from_parent(self, name=check, case=self.case)


class AuditItem(pytest.Item):
    """One check on one model."""

    def __init__(self, case: Case, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case
        self.add_marker(pytest.mark.sw_audit(model=case.model, check=self.name))

    @property
    def policy(self) -> Policy:
        """The policy that asks for it."""
        return find_session(self.config).assignments[self.case.key].policy

    def find_verdict(self) -> Verdict:
        """Return the verdict as it may be written: other plugins write what an item says of it."""
        verdict = find_session(self.config).find_verdict(self.case, self.name)
        return redact(verdict)[0] if self.policy.redaction else verdict

    def setup(self) -> None:
        """Have the model measured, if it has not been, and take the verdict to the report."""
        session = find_session(self.config)
        known = self.case in session.failures
        try:
            verdict = self.find_verdict()
        except Exception as error:
            failure = error
        else:
            self.user_properties += list_properties(verdict)
            return
        kind = "input" if isinstance(failure, AuditError) else "defect"
        told = redact_text(tell_error(failure)) if self.policy.redaction else tell_error(failure)
        self.user_properties.append((f"sw_audit.{kind}", told))
        # A defect keeps its traceback, but once: the other checks of the model fail for the same reason.
        if self.config.getoption("fulltrace", False) or (kind == "defect" and not known):
            raise failure
        pytest.fail(told, pytrace=False)

    def runtest(self) -> None:
        """Pass, fail or skip as the verdict says."""
        verdict, inconclusive = self.find_verdict(), self.policy.inconclusive
        ending, words = end_case(verdict, inconclusive)
        if ending == "xfail":
            pytest.xfail(words)
            # Only `--runxfail` comes here: the verdict then counts as a gate's without a waiver.
            ending, words = end_case(verdict.model_copy(update={"waiver": None, "level": "gate"}), inconclusive)
        if ending == "fail":
            raise VerdictError(words)
        if ending == "skip":
            pytest.skip(words)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Tell a verdict without a traceback; anything else is a defect and keeps its own."""
        if isinstance(excinfo.value, VerdictError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Name the item in the words of the table, for headlines."""
        return self.path, 0, f"{self.name} ({self.case.model})"


def collect_options(collector: pytest.Session) -> list[AuditedModel]:
    """Return the models that the options ask for, as collectors directly under the session."""
    session = find_session(collector.config)
    if not session.requested:
        return []
    assignment = session.assign_options()
    named = {name.partition("::")[0] for name in session.named}
    return [
        AuditedModel.from_parent(
            collector,
            name=case.model,
            path=collector.config.rootpath,
            nodeid=case.model,
            assignment=assignment,
            case=case,
        )
        for case in assignment.cases
        if not named or case.model in named
    ]


def keep_named_items(session: AuditSession, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the items that the node ids on the command line leave; tests are not touched."""
    if not session.named:
        return items
    return [
        item
        for item in items
        if not isinstance(item, AuditItem)
        or item.case.key != OPTIONS_KEY
        or any(item.nodeid == name or item.nodeid.startswith(f"{name}::") for name in session.named)
    ]
