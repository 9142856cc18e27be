"""The audit of a pytest run: what is to be audited, and every model measured at most once, on first need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest

from pytest_sw_audit.options import is_alone, is_requested, read_settings
from pytest_sw_audit.progress import count_models, report_progress
from pytest_sw_audit.state import is_worker, names_models
from sw_audit.checkpoint import opening
from sw_audit.checkpoint.folder import weigh_checkpoint
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.errors import AuditError
from sw_audit.record.location import Location
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Verdict
from sw_audit.runner import run, single
from sw_audit.runner.assignments import OPTIONS_KEY, Assignment, Case, assign_file, assign_options
from sw_audit.runner.cache import Cache
from sw_audit.runner.fleet import Fleet
from sw_audit.runner.output import WrittenRecord, check_places, tell_error
from sw_audit.runner.pair import Parents
from sw_audit.runner.watching import look_at_model
from sw_audit.stopping import Stopper


class RemoteError(AuditError):
    """An error that happened on a worker or in measuring, as the line that tells it."""


class AuditSession:
    """The state of the run.

    Attributes:
        config: The pytest configuration.
        settings: What the command line and the ini file say.
        requested: Whether an audit is asked for.
        assignments: What is to be audited, by key.
        offered: Keys of the assignments whose models the fixtures run over: those known before collection.
        named: Node ids given on the command line for models that come from options.
        gated: The models and checks that are test cases of this run, in order.
        needed: The checks that anything in this run reads, by model.
        kept_open: The models that tests will want to have open.
        results: The models that have been measured, verdicts included.
        failures: The models that could not be.
        interrupted: Whether the run was broken off, so that nothing may be written.
        stopper: Knows whether the time of the run is up, and whether a signal came while a model was measured.
        stopped: Why the run ended before everything was measured, as a clause; then what it holds is written.
        written: The records that were written.
        trouble: Why nothing, or not everything, could be written; one line.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = read_settings(config)
        self.requested = is_requested(config)
        self.assignments: dict[str, Assignment] = {}
        self.offered: list[str] = []
        self.named: list[str] = []
        self.gated: dict[Case, list[str]] = {}
        self.needed: dict[Case, set[str]] = {}
        self.kept_open: set[Case] = set()
        self.results: dict[Case, ModelResult | ModelFailure] = {}
        self.failures: dict[Case, Exception] = {}
        self.interrupted = False
        self.stopper = Stopper()
        self.stopped: str | None = None
        self.written: list[WrittenRecord] = []
        self.trouble: str | None = None
        self._open: tuple[Case, Checkpoint, str] | None = None
        self._cache: Cache | None = None
        self._parents = Parents()
        self._checked = False
        config.pluginmanager.register(Interruption(self), "sw_audit-interruption")

    def begin(self, files: Iterable[Path]) -> None:
        """Complain about whatever can be known before collection, and take what the command line names.

        Raises:
            pytest.UsageError: If there is something to complain about.
        """
        try:
            if not is_worker(self.config):
                self.find_cache()
            if self.requested:
                self.offer(self.assign_options())
                self._take_named_items()
            for path in files:
                self.offer(self.assign_file(path))
        except AuditError as error:
            raise pytest.UsageError(tell_error(error)) from error
        if is_alone(self.config) and self.config.args_source is not pytest.Config.ArgsSource.ARGS:
            self.config.args, self.config.args_source = [], pytest.Config.ArgsSource.ARGS

    def assign_options(self) -> Assignment:
        """Return the assignment that the options make; see `sw_audit.runner.assignments.assign_options`."""
        if OPTIONS_KEY not in self.assignments:
            self.assignments[OPTIONS_KEY] = assign_options(self.settings, self.config.rootpath)
        return self.assignments[OPTIONS_KEY]

    def assign_file(self, path: Path) -> Assignment:
        """Return the assignment that a policy file makes; see `sw_audit.runner.assignments.assign_file`."""
        if str(path) not in self.assignments:
            self.assignments[str(path)] = assign_file(path, self.settings, self.config.rootpath)
        return self.assignments[str(path)]

    def offer(self, assignment: Assignment) -> None:
        """Let the fixtures run over an assignment's models."""
        if assignment.key not in self.offered:
            self.offered.append(assignment.key)

    def offer_tool_models(self) -> None:
        """Let the fixtures run over the models of `[tool.sw_audit]` where nothing else is asked for."""
        if not self.offered and names_models(self.config):
            self.offer(self.assign_options())

    def label_cases(self) -> dict[str, Case]:
        """Return every offered model by a label: its id where only one policy has it, else `policy:id`."""
        cases = [case for key in self.offered for case in self.assignments[key].cases]
        ids = [case.model for case in cases]
        names = {case: f"{self.assignments[case.key].name}:{case.model}" for case in cases}
        return {case.model if ids.count(case.model) == 1 else names[case]: case for case in cases}

    def need(self, case: Case, checks: Iterable[str]) -> None:
        """Note that checks will be read, so that the measuring pass serves them."""
        self.needed.setdefault(case, set()).update(checks)

    def find_verdict(self, case: Case, check: str) -> Verdict:
        """Return one verdict, measuring the model first if it has not been; see `find_model`."""
        return next(verdict for verdict in self.find_model(case, (check,)).verdicts if verdict.check == check)

    def find_model(self, case: Case, checks: Iterable[str] = ()) -> ModelResult | ModelFailure:
        """Return everything known of one model, measuring it first if it has not been.

        `checks` are those that will be read, where `need` did not announce them.

        Raises:
            InputError: If the model or the text cannot be used; again on every call.
            KeyboardInterrupt: If Ctrl-C or SIGTERM came while it was measured; what was decided by then is kept.
        """
        if case in self.failures:
            raise self.failures[case]
        if case not in self.results:
            self.need(case, checks)
            self.fleet.started(case)
            try:
                self.results[case] = self._measure(case)
            except Exception as error:
                self.failures[case] = error
                self.fleet.finished(case, None)
                self.close_model()
                raise
            measured = self.results[case]
            self.fleet.finished(case, measured.verdicts, recalled=run.is_recalled(measured))
            if self.stopper.signalled.value:
                raise KeyboardInterrupt  # pytest ends as after any Ctrl-C
        return self.results[case]

    def find_result(self, case: Case) -> ModelResult:
        """Return what was measured on one model; one whose weights are not intact is an error."""
        model = self.find_model(case)
        if isinstance(model, ModelFailure):
            raise RemoteError(model.message)
        return model

    def list_verdicts(self) -> list[Verdict]:
        """Return the verdicts of this run's items, in order, as far as they were reached."""
        reached = ((case, checks) for case, checks in self.gated.items() if case in self.results)
        return [self.find_verdict(case, check) for case, checks in reached for check in checks]

    def open_model(self, case: Case) -> Checkpoint:
        """Return the open model; the one that was open before is let go."""
        if self._open is None or self._open[0] != case:
            self.close_model()
            policy = self.assignments[case.key].policy
            model = policy.find_model(case.model)
            state = look_at_model(model)
            self._open = case, opening.open_checkpoint(model).starting(policy.bos_rule(model)), state
        return self._open[1]

    def close_model(self) -> None:
        """Let go of the open model, if there is one."""
        self._open = None

    def locate_model(self, case: Case) -> Location:
        """Return where a model's super weights are, from the measuring pass if there is one in this run."""
        if case in self.results or self.needed.get(case):
            return self.find_result(case).location
        location = single.locate_model(self.open_model(case))
        if case not in self.kept_open:
            self.close_model()
        return location

    def find_cache(self) -> Cache | None:
        """Return the cache, unless nothing is to be kept; complain about places that cannot be written.

        Raises:
            OutputError: If the output folder, a baseline or a named cache cannot be written.
        """
        if not self._checked:
            self._cache, self._checked = check_places(self.settings), True
        return self._cache

    @cached_property
    def fleet(self) -> Fleet:
        """How many of the models that this run needs are done."""
        models = {case: self.assignments[case.key].policy.find_model(case.model) for case in self.needed}
        return count_models(self.config, {case: weigh_checkpoint(model) for case, model in models.items()})

    def _measure(self, case: Case) -> ModelResult | ModelFailure:
        assignment = self.assignments[case.key]
        checks = [check for check in assignment.checks[case.model] if check in self.needed[case]]
        checks += sorted(self.needed[case] - set(checks))
        budgets = (each.policy.budget for each in self.assignments.values() if each.policy.budget is not None)
        self.stopper = replace(self.stopper, budget=min(budgets, default=None))
        with report_progress(self.config, case.model) as progress, self.stopper.heeding_signals():
            # What a test opened before may be another model by now.
            if self._open and self._open[2] != look_at_model(assignment.policy.find_model(self._open[0].model)):
                self.close_model()
            # A descendant is opened only when its files have been looked at, so it is kept open after.
            if case in self.kept_open and assignment.policy.find_model(case.model).parent is None:
                self.open_model(case)
            elif self._open and self._open[0] != case:
                self.close_model()
            return run.run_model(
                assignment.policy,
                case.model,
                checks,
                progress=self.stopper.watch(progress),
                cache=self.find_cache(),
                checkpoint=self._open[1] if self._open else None,
                saved=assignment.saved,
                parents=self._parents,
            )

    def _take_named_items(self) -> None:
        """Take node ids such as `llama-w4::prune-collapses` out of the file arguments."""
        models = {case.model for case in self.assignments[OPTIONS_KEY].cases}
        for argument in list(self.config.args):
            name = argument.partition("::")[0]
            if name in models and not (self.config.invocation_params.dir / name).exists():
                self.config.args.remove(argument)
                self.named.append(argument)


class Interruption:
    """Takes note when the run ends early; stopping at a failure, as `-x` does, is no such thing."""

    def __init__(self, session: AuditSession) -> None:
        self._session = session

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C, or `pytest.exit`; pytest derives its own ways of stopping from KeyboardInterrupt."""
        if excinfo.type is KeyboardInterrupt:
            self._session.stopped = self._session.stopper.reason or "the run was stopped by Ctrl-C"
        elif issubclass(excinfo.type, pytest.exit.Exception):
            self._session.interrupted = True

    @pytest.hookimpl
    def pytest_internalerror(self) -> None:
        """A defect, here or on a worker."""
        self._session.interrupted = True
