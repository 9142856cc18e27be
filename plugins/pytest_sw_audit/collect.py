"""How an audit becomes test cases: a policy file, its models, and one item per check and model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sw_audit.assignments import OPTIONS_KEY, SUFFIX, Assignment, Case
from pytest_sw_audit.explain import explain_verdict
from pytest_sw_audit.session import AuditSession, find_desk, plain, tell_error

if TYPE_CHECKING:
    from sw_audit.record.verdict import Verdict


class VerdictError(Exception):
    """A verdict that fails its item; the message is the whole explanation."""


class PolicyFile(pytest.File):
    """A `*.swaudit.toml` file."""

    def collect(self) -> Iterator[AuditedModel]:
        """Yield the policy's models.

        Raises:
            CollectError: If the policy or a model cannot be used; one line.
        """
        from sw_audit.errors import AuditError

        try:
            assignment = find_desk(self.config).engage_file(self.path)
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
        for check in self.assignment.list_checks(self.case.model):
            yield AuditItem.from_parent(self, name=check, case=self.case)


class AuditItem(pytest.Item):
    """One check on one model."""

    def __init__(self, case: Case, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case
        self.add_marker(pytest.mark.sw_audit(model=case.model, check=self.name))

    def setup(self) -> None:
        """Have the model measured, if it has not been, and take the verdict to the report."""
        desk = find_desk(self.config)
        told = self.case in desk.failures
        try:
            verdict = desk.find_verdict(self.case, self.name)
        except Exception as error:
            failure = error
        else:
            self._report(verdict)
            return
        from sw_audit.errors import AuditError

        kind = "input" if isinstance(failure, AuditError) else "defect"
        self.user_properties.append((f"sw_audit.{kind}", tell_error(failure)))
        # A defect keeps its traceback, but once: the other checks of the model fail for the same reason.
        if self.config.getoption("fulltrace", False) or (kind == "defect" and not told):
            raise failure
        pytest.fail(tell_error(failure), pytrace=False)

    def _report(self, verdict: Verdict) -> None:
        said = plain(verdict)
        figures = ("status", "quantity", "observed", "low", "high", "limit", "because", "remedy", "protocol")
        for name in ("check", "model", *figures):
            if said[name] is not None:
                self.user_properties.append((f"sw_audit.{name}", said[name]))
        if verdict.waiver is not None:
            self.user_properties.append(("sw_audit.waiver", str(verdict.waiver)))

    def runtest(self) -> None:
        """Pass, fail or skip as the verdict says."""
        from sw_audit.record.verdict import Status

        desk = find_desk(self.config)
        verdict = desk.find_verdict(self.case, self.name)
        lenient = desk.assignments[self.case.key].policy.inconclusive == "warn"
        if verdict.status is Status.SKIPPED:
            pytest.skip(verdict.because)
        if verdict.waiver is not None:
            pytest.xfail(f"waived {verdict.waiver} ({verdict.status.upper()}: {verdict.because})")
        if verdict.status is Status.INCONCLUSIVE and lenient:
            pytest.skip(f"INCONCLUSIVE: {verdict.because}")
        if verdict.status is not Status.PASS:
            raise VerdictError(explain_verdict(verdict))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Tell a verdict without a traceback; anything else is a defect and keeps its own."""
        if isinstance(excinfo.value, VerdictError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Name the item in the words of the table, for headlines."""
        return self.path, 0, f"{self.name} ({self.case.model})"


def collect_options(session: pytest.Session) -> list[AuditedModel]:
    """Return the models that the options ask for, as collectors directly under the session."""
    desk = find_desk(session.config)
    if not desk.settings.requested:
        return []
    assignment = desk.engage_options()
    wanted = {name.partition("::")[0] for name in desk.named}
    return [
        AuditedModel.from_parent(
            session,
            name=case.model,
            path=session.config.rootpath,
            nodeid=case.model,
            assignment=assignment,
            case=case,
        )
        for case in assignment.cases
        if not wanted or case.model in wanted
    ]


def take_named_items(config: pytest.Config, desk: AuditSession) -> None:
    """Take node ids such as `llama-w4::prune-collapses` out of the file arguments."""
    models = {case.model for case in desk.assignments[OPTIONS_KEY].cases}
    for argument in list(config.args):
        name = argument.partition("::")[0]
        if name in models and not (config.invocation_params.dir / name).exists():
            config.args.remove(argument)
            desk.named.append(argument)


def keep_named_items(desk: AuditSession, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the items that the node ids on the command line leave; tests are not touched."""
    if not desk.named:
        return items
    return [
        item
        for item in items
        if not isinstance(item, AuditItem)
        or item.case.key != OPTIONS_KEY
        or any(item.nodeid == name or item.nodeid.startswith(f"{name}::") for name in desk.named)
    ]


def collect_file(path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """Return the collector of a policy file, if it is one."""
    return PolicyFile.from_parent(parent, path=path) if path.name.endswith(SUFFIX) else None
