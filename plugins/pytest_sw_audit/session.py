"""Where the run's evidence is gathered: every model is measured at most once, on first need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sw_audit.assignments import (
    OPTIONS_KEY,
    Assignment,
    Case,
    assign_file,
    assign_options,
    load_tool_table,
)
from pytest_sw_audit.options import Settings

if TYPE_CHECKING:
    from sw_audit import Checkpoint
    from sw_audit.progress import Progress
    from sw_audit.record.location import Location
    from sw_audit.record.record import ModelFailure, ModelResult
    from sw_audit.record.verdict import Verdict
    from sw_audit.runner.cache import Cache


@dataclass
class AuditSession:
    """The state of the run.

    Attributes:
        settings: What the command line and the ini file say.
        root: The root folder of the run.
        report_progress: Gives what is called while a model is measured.
        assignments: What is to be audited, by key.
        offered: Keys of the assignments whose models the fixtures run over: those known before collection.
        named: Node ids given on the command line for models that come from options.
        gated: The models and checks that are test cases of this run, in order.
        needed: The checks that anything in this run reads, by model.
        lent: The models that tests will want to have open.
        results: The models that have been measured.
        failures: The models that could not be.
        interrupted: Whether the run was broken off, so that nothing may be written.
    """

    settings: Settings
    root: Path
    report_progress: Callable[[str], AbstractContextManager[Progress]]
    assignments: dict[str, Assignment] = field(default_factory=dict)
    offered: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    gated: dict[Case, list[str]] = field(default_factory=dict)
    needed: dict[Case, set[str]] = field(default_factory=dict)
    lent: set[Case] = field(default_factory=set)
    results: dict[Case, ModelResult | ModelFailure] = field(default_factory=dict)
    failures: dict[Case, Exception] = field(default_factory=dict)
    interrupted: bool = False
    _open: tuple[Case, Checkpoint] | None = None
    _cache: Cache | None = None

    def engage_options(self) -> Assignment:
        """Return the assignment that the options make; see `assign_options`."""
        if OPTIONS_KEY not in self.assignments:
            self.assignments[OPTIONS_KEY] = assign_options(self.settings, self.root)
        return self.assignments[OPTIONS_KEY]

    def engage_file(self, path: Path) -> Assignment:
        """Return the assignment that a policy file makes; see `assign_file`."""
        if str(path) not in self.assignments:
            self.assignments[str(path)] = assign_file(path, self.settings)
        return self.assignments[str(path)]

    def offer(self, assignment: Assignment) -> None:
        """Let the fixtures run over an assignment's models."""
        if assignment.key not in self.offered:
            self.offered.append(assignment.key)

    def label_cases(self) -> dict[str, Case]:
        """Return every offered model by a label: its id where only one policy has it, else `policy:id`."""
        cases = [case for key in self.offered for case in self.assignments[key].cases]
        ids = [case.model for case in cases]
        names = {case: f"{self.assignments[case.key].name}:{case.model}" for case in cases}
        return {case.model if ids.count(case.model) == 1 else names[case]: case for case in cases}

    def names_models(self) -> bool:
        """Whether `[tool.sw_audit]` names models; cheap, for it is asked where no audit may be wanted."""
        table = load_tool_table(self.root / "pyproject.toml")
        return isinstance(table, dict) and bool(table.get("model"))

    def need(self, case: Case, checks: Iterable[str]) -> None:
        """Note that checks will be read, so that the measuring pass serves them."""
        self.needed.setdefault(case, set()).update(checks)

    def find_verdict(self, case: Case, check: str) -> Verdict:
        """Return one verdict, measuring the model first if it has not been.

        Raises:
            InputError: If the model or the text cannot be used.
        """
        return next(one for one in self.find_model(case, (check,)).verdicts if one.check == check)

    def find_model(self, case: Case, checks: Iterable[str] = ()) -> ModelResult | ModelFailure:
        """Return everything known of one model, measuring it first if it has not been.

        Args:
            case: The model.
            checks: The checks that will be read, if they were not announced by `need`.

        Raises:
            InputError: If the model or the text cannot be used; again on every call.
        """
        if case in self.failures:
            raise self.failures[case]
        if case not in self.results:
            self.need(case, checks)
            try:
                self.results[case] = self._measure(case)
            except Exception as error:
                self.failures[case] = error
                self.close_model()
                raise
        return self.results[case]

    def find_result(self, case: Case) -> ModelResult:
        """Return what was found and measured on one model.

        Raises:
            InputError: If the model or the text cannot be used.
            RemoteError: If the model was not opened, for its weights are not intact.
        """
        from sw_audit.record.record import ModelFailure

        model = self.find_model(case)
        if isinstance(model, ModelFailure):
            raise RemoteError(model.message)
        return model

    def open_model(self, case: Case) -> Checkpoint:
        """Return the open model; the one that was open before is let go.

        Raises:
            InputError: If it cannot be used.
        """
        from sw_audit.checkpoint.opening import open_checkpoint

        if self._open is None or self._open[0] != case:
            self.close_model()
            self._open = case, open_checkpoint(self.assignments[case.key].policy.find_model(case.model))
        return self._open[1]

    def close_model(self) -> None:
        """Let go of the open model, if there is one."""
        self._open = None

    def locate_model(self, case: Case) -> Location:
        """Return where a model's super weights are, from the measuring pass if there is one in this run."""
        from sw_audit.runner.single import locate_model

        if case in self.results or self.needed.get(case):
            return self.find_result(case).location
        location = locate_model(self.open_model(case))
        if case not in self.lent:
            self.close_model()
        return location

    def check_places(self) -> None:
        """Complain before anything is measured about what could not be kept after.

        Raises:
            OutputError: If a baseline cannot have the name or be written, or a named cache cannot be used.
        """
        from sw_audit.record.baselines import check_name

        self.open_cache()
        if self.settings.save is not None:
            check_name(self.settings.save)

    def open_cache(self) -> Cache | None:
        """Return where measurements are remembered, unless nothing is to be."""
        from sw_audit.runner.cache import open_cache

        if self._cache is None and self.settings.caching:
            self._cache = open_cache(self.settings.cache, asked=self.settings.cache is not None)
        return self._cache

    def _measure(self, case: Case) -> ModelResult | ModelFailure:
        from sw_audit.runner.run import run_model

        assignment = self.assignments[case.key]
        checks = [check for check in assignment.list_checks(case.model) if check in self.needed[case]]
        checks += sorted(self.needed[case] - set(checks))
        with self.report_progress(case.model) as progress:
            # A descendant is opened only when its files have been looked at, so it is lent after.
            if case in self.lent and assignment.policy.find_model(case.model).parent is None:
                self.open_model(case)
            elif self._open and self._open[0] != case:
                self.close_model()
            checkpoint = self._open[1] if self._open else None
            return run_model(
                assignment.policy,
                case.model,
                checks,
                progress=progress,
                cache=self.open_cache(),
                checkpoint=checkpoint,
            )


DESK = pytest.StashKey[AuditSession]()


def find_desk(config: pytest.Config) -> AuditSession:
    """Return the run's desk."""
    return config.stash[DESK]


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


class RemoteError(Exception):
    """An error that happened on a worker or in measuring, as the line that tells it."""


def tell_error(error: Exception) -> str:
    """Put an error into one line; one that is not about the input is named by its type."""
    from sw_audit.errors import AuditError

    text = " ".join(str(error).split())
    return text if isinstance(error, AuditError | RemoteError) else f"{type(error).__name__}: {text}"


def plain(value: Any) -> Any:
    """Turn a fact into plain JSON types, which are all that crosses to another process."""
    return value.model_dump(mode="json", by_alias=True)
