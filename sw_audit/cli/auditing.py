"""An audit on the command line: every model through the runner, here or in processes, then files and a table."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import typer

from sw_audit.checkpoint.folder import weigh_checkpoint
from sw_audit.checks.explain import (
    breaches,
    conclude,
    explain_verdict,
    list_skipped,
    list_unproved,
    list_waived,
    write_ending,
)
from sw_audit.cli.junit import write_junit
from sw_audit.cli.printing import Output, print_line, print_models, print_worst, tabulate_verdicts, tell_redactions
from sw_audit.cli.progress import show_models, show_progress
from sw_audit.defect import DEFECT, tell_defect
from sw_audit.errors import AuditError
from sw_audit.memory import find_available
from sw_audit.printable import printable_lines
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import FEW_MODELS, group_by_protocol
from sw_audit.record.store import encode_record
from sw_audit.runner import run
from sw_audit.runner.assignments import Assignment, Case, assign_file, assign_options
from sw_audit.runner.cache import Cache
from sw_audit.runner.fitting import count_fitting, list_needs, tell_fitting
from sw_audit.runner.fleet import Fleet
from sw_audit.runner.on_ray import RaySpread, Take, connect_ray
from sw_audit.runner.options import AuditSettings
from sw_audit.runner.output import (
    RECORD,
    UnfinishedFiles,
    check_places,
    draft_record,
    is_baseline,
    name_folders,
    place_files,
    tell_error,
    tidy_cache,
    write_drafts,
)
from sw_audit.runner.pair import Parents
from sw_audit.stopping import Stopper, ignoring_interrupts, tell_stopping

_PROCESSES = multiprocessing.get_context("spawn")
_NOT_ENDED = "the run did not end"


@dataclass
class Outcome:
    """What came of an audit.

    Attributes:
        models: What was measured and judged.
        failures: Why other models could not be.
        complaints: Why something could not be audited or written, a line each.
        defects: What is told of errors that nobody foresaw, a line each.
        tracebacks: Those of all errors, in debugging.
        remarks: What else is to be known, a line each.
        audited: The policies of which at least one model was audited, with their records.
        files: What was written, by kind.
    """

    models: dict[Case, ModelResult | ModelFailure] = field(default_factory=dict)
    failures: dict[Case, ModelFailure] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    audited: list[tuple[Assignment, Record]] = field(default_factory=list)
    files: list[tuple[str, Path]] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The records, in order."""
        return [record for _, record in self.audited]

    @property
    def code(self) -> int:
        """How the program exits."""
        return DEFECT if self.defects else conclude(self.records, complete=not self.complaints)

    def complain(self, line: str) -> None:
        """Note why something could not be done, once."""
        if line not in self.complaints:
            self.complaints.append(line)

    @contextmanager
    def noting(self, case: Case, assignment: Assignment, *, debug: bool) -> Iterator[None]:
        """Note why a model cannot be audited."""
        try:
            yield
        except Exception as error:
            checks = assignment.checks[case.model]
            self.failures[case] = ModelFailure(model=case.model, message=tell_error(error), checks=checks)
            self.note(error)
            if debug:
                self.tracebacks.append("".join(traceback.format_exception(error)).rstrip())

    def note(self, error: Exception) -> None:
        """Note an error as what it is: one of the input is complained about, any other is a defect."""
        if isinstance(error, AuditError):
            self.complain(tell_error(error))
        else:
            self.defects.append(tell_defect(error))


def audit_models(
    settings: AuditSettings,
    files: list[Path],
    root: Path,
    junit: Path,
    workers: int,
    debug: bool,
    quiet: bool,
    started: float | None = None,
    ray: str | None = None,
) -> Outcome:
    """Audit models and write what comes of it.

    `files` are policies to audit besides; `root` is the folder whose pyproject.toml counts. With `workers` each
    model has a process of its own, and 0 audits them in this one; `ray` is the address of a Ray cluster to do it
    on, empty for the one that RAY_ADDRESS names, else one that is started here. The time that a policy allows is
    counted from `started`, on the clock `time.monotonic`; of several policies the shortest counts for all. After
    it, after Ctrl-C and after SIGTERM, what is not decided is inconclusive. The records are written at once, and
    again after every model, so that a run leaves them however it ends.

    Raises:
        InputError: If something asked for cannot be used, as far as it can be told before anything is measured.
    """
    cache = check_places(settings)
    assignments = [] if files and not (settings.models or settings.policy) else [assign_options(settings, root)]
    assignments += [assign_file(file.absolute(), settings, root) for file in files]
    budgets = [assignment.policy.budget for assignment in assignments if assignment.policy.budget is not None]
    stopper = Stopper(
        min(budgets, default=None),
        time.monotonic() if started is None else started,
        _PROCESSES.RawValue("i", 0) if workers else ctypes.c_int(),
    )
    folders = name_folders(settings.out, [assignment.name for assignment in assignments])
    places = [
        (each, UnfinishedFiles(folder, *place_files(settings, folder).values()))
        for each, folder in zip(assignments, folders, strict=True)
    ]
    audit = _Audit(places, junit, cache, stopper, debug=debug, quiet=quiet)
    cases = UnfinishedFiles(junit.parent, junit)
    with stopper.heeding_signals(tell_stopping), _choose_spread(audit, workers, ray) as spread:
        for assignment, unfinished in places:
            audit.keep(assignment, unfinished)
        # Lines, for those of several models would break a bar.
        _audit_all(audit, spread, plain=not isinstance(spread, _Here))
        _write_files(audit, settings)
        tidy_cache(cache, settings)
        if not audit.outcome.audited:
            cases.take_back()
    return audit.outcome


@dataclass
class _Audit:
    """What is audited, how, and what came of it so far; where JUnit XML goes.

    Until `keep_after`, on the clock `time.monotonic`, the record is not written again.
    """

    places: Sequence[tuple[Assignment, UnfinishedFiles]]
    junit: Path
    cache: Cache | None
    stopper: Stopper
    debug: bool
    quiet: bool
    outcome: Outcome = field(default_factory=Outcome)
    keep_after: float = 0.0

    @property
    def cases(self) -> list[tuple[Assignment, UnfinishedFiles, Case]]:
        """Every model, with its assignment and record."""
        return [(*place, case) for place in self.places for case in place[0].cases]

    @property
    def sizes(self) -> dict[Hashable, int | None]:
        """Every model, with the bytes of its weights where they are known."""
        return {
            case: weigh_checkpoint(assignment.policy.find_model(case.model)) for assignment, _, case in self.cases
        }

    def is_recalled(self, case: Case) -> bool:
        """Whether nothing was measured anew on a model."""
        return (model := self.outcome.models.get(case)) is not None and run.is_recalled(model)

    def finish(self, fleet: Fleet, case: Case) -> None:
        """Tell how a model ended."""
        model = self.outcome.models.get(case)
        if model is None:
            fleet.finished(case, None)
        else:
            fleet.finished(case, model.verdicts, recalled=self.is_recalled(case))

    def compose(self, assignment: Assignment) -> Record:
        """Put the models of an assignment into a record; those that are not done are inconclusive."""
        outcome, policy = self.outcome, assignment.policy
        return run.compose_record(
            (
                outcome.models.get(case)
                or outcome.failures.get(case)
                or run.fail_stopped(policy, case.model, assignment.checks[case.model], _NOT_ENDED)
                for case in assignment.cases
            ),
            policy,
            assignment.origin,
        )

    def keep(self, assignment: Assignment, unfinished: UnfinishedFiles) -> None:
        """Write the record as it stands, but where the run still reads the one of an earlier run there.

        A record that takes over a second is written seldom enough that it costs a twentieth of the run at most.
        """
        if is_baseline(assignment.policy.compare, unfinished.folder) or time.monotonic() < self.keep_after:
            return
        begun = time.monotonic()
        texts = {unfinished.folder / RECORD: encode_record(self.compose(assignment))}
        if self.junit.is_file() or not self.junit.exists():
            texts[self.junit] = write_junit([self.compose(each) for each, _ in self.places])
        unfinished.write(texts)
        ended = time.monotonic()
        self.keep_after = ended + (20 * (ended - begun) if ended - begun > 1 else 0)


class _Spread(Protocol):
    """A way to run models: yields each with what gives it or raises, when it has ended; told when one begins."""

    def __call__(
        self, jobs: Sequence[tuple[Assignment, Case]], started: Callable[[Case], None], /
    ) -> Generator[tuple[Case, Take]]: ...


def _audit_all(audit: _Audit, spread: _Spread, *, plain: bool) -> None:
    """Run all models in some way, and keep the record after each."""
    places = {case: (assignment, unfinished) for assignment, unfinished, case in audit.cases}
    jobs = [(assignment, case) for assignment, _, case in audit.cases]
    with (
        show_models(audit.sizes, quiet=audit.quiet, plain=plain) as fleet,
        closing(spread(jobs, fleet.started)) as ended,
    ):
        for case, take in ended:
            with audit.outcome.noting(case, places[case][0], debug=audit.debug):
                audit.outcome.models[case] = take()
            # What is recalled is in the cache, and no record is needed to keep it.
            if not audit.is_recalled(case):
                audit.keep(*places[case])
            audit.finish(fleet, case)


@dataclass
class _Here:
    """Runs models in this process, one after the other."""

    audit: _Audit
    parents: Parents = field(default_factory=Parents)

    def __call__(
        self, jobs: Sequence[tuple[Assignment, Case]], started: Callable[[Case], None]
    ) -> Generator[tuple[Case, Take]]:
        for assignment, case in jobs:
            started(case)
            yield case, partial(self._run, assignment, case, case.model if len(jobs) > 1 else "")

    def _run(self, assignment: Assignment, case: Case, name: str) -> ModelResult | ModelFailure:
        with show_progress(name, quiet=self.audit.quiet) as progress:
            watched = self.audit.stopper.watch(progress)
            return assignment.run(case.model, progress=watched, cache=self.audit.cache, parents=self.parents)


@dataclass
class _InProcesses:
    """Runs every model in a process of its own, at most `workers` at once."""

    audit: _Audit
    workers: int

    def __call__(
        self, jobs: Sequence[tuple[Assignment, Case]], _: Callable[[Case], None]
    ) -> Generator[tuple[Case, Take]]:
        audit, stopper = self.audit, self.audit.stopper
        kept = None if audit.cache is None else audit.cache.folder
        shared = (stopper.budget, stopper.started, stopper.signalled)
        pool = ProcessPoolExecutor(self.workers, mp_context=_PROCESSES, initializer=_begin_worker, initargs=shared)
        with _share_cores(self.workers), pool:
            # Ctrl-C reaches every process of a terminal: this one speaks for all.
            with ignoring_interrupts():
                runs = [pool.submit(_audit_model, one, case.model, kept, audit.quiet) for one, case in jobs]
            asked = dict(zip(runs, jobs, strict=True))
            try:
                for done in as_completed(runs):
                    assignment, case = asked[done]
                    yield case, partial(_take, done, assignment, case, stopper)
            except (KeyboardInterrupt, GeneratorExit):
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()
                raise


@contextmanager
def _choose_spread(audit: _Audit, workers: int, ray: str | None) -> Iterator[_Spread]:
    assignments = [assignment for assignment, _ in audit.places]
    if ray is not None:
        with connect_ray(ray) as module:
            show = partial(show_progress, quiet=audit.quiet, plain=True)
            spread = RaySpread(module, audit.stopper, None if audit.cache is None else audit.cache.folder, show)
            spread.require_workers(assignments)
            yield spread
    elif workers:
        # No more at once than fit into memory; the others wait.
        needs, available = list_needs(assignments), find_available()
        if (told := tell_fitting(needs, workers, available)) and not audit.quiet:
            print_line(f"sw-audit: {told}; the others wait", err=True)
        yield _InProcesses(audit, min(workers, count_fitting(needs, available)))
    else:
        yield _Here(audit)


def _take(
    done: Future[ModelResult | ModelFailure], assignment: Assignment, case: Case, stopper: Stopper
) -> ModelResult | ModelFailure:
    try:
        return done.result()
    except BrokenProcessPool:
        reason = stopper.reason
        if reason is None or not stopper.signalled.value:
            raise
        # The signal went to every process, and ended one that did not heed it yet.
        return run.fail_stopped(assignment.policy, case.model, assignment.checks[case.model], reason)


_worker_stopper = Stopper()


def _begin_worker(budget: float | None, started: float, signalled: ctypes.c_int) -> None:
    """Let a worker end when the command does, also one that was killed."""
    global _worker_stopper  # what a process of a pool is given once
    _worker_stopper = Stopper(budget, started, signalled)
    threading.Thread(target=_end_with_command, daemon=True).start()


def _end_with_command() -> None:
    if (command := multiprocessing.parent_process()) is not None:
        command.join()
        os._exit(1)


def _audit_model(
    assignment: Assignment, model_id: str, folder: Path | None, quiet: bool
) -> ModelResult | ModelFailure:
    cache = None if folder is None else Cache(folder)
    # Bars of several processes would stand on each other.
    with show_progress(model_id, quiet=quiet, plain=True) as progress, _worker_stopper.heeding_signals():
        return assignment.run(model_id, progress=_worker_stopper.watch(progress), cache=cache)


@contextmanager
def _share_cores(workers: int) -> Iterator[None]:
    """Leave each process its part of the cores, unless the user has divided them.

    Threads of two processes on one core wait for each other actively, and an audit takes several times as long.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _write_files(audit: _Audit, settings: AuditSettings) -> None:
    outcome, drafts = audit.outcome, []
    for assignment, unfinished in audit.places:
        if not any(case in outcome.models for case in assignment.cases):
            unfinished.take_back()
            continue
        record, among = audit.compose(assignment), assignment.name if len(audit.places) > 1 else None
        drafts.append(draft_record(record, unfinished.folder, settings, among))
        outcome.audited.append((assignment, record))
    if drafts:
        drafts[-1].texts["junit"] = audit.junit, write_junit(outcome.records)
        write_drafts(drafts)
    for written in drafts:
        outcome.files += written.files.items()
        if written.error is not None:
            outcome.note(written.error)
        outcome.remarks += [written.remark] if written.remark else []


def tell_ending(outcome: Outcome) -> str:
    """Say how an audit ended, such as `FAILED: 9 pass, 1 fail`."""
    return write_ending([verdict for record in outcome.records for verdict in record.verdicts], outcome.code)


def print_outcome(outcome: Outcome, *, quiet: bool, verbose: bool, name: str = "") -> None:
    """Print the verdicts on standard output, complaints on standard error; `name` stands before the last line."""
    output = Output()
    verdicts = [verdict for record in outcome.records for verdict in record.verdicts]
    many = sum(len(record.models) for record in outcome.records) > FEW_MODELS
    if many and not quiet and not verbose:
        for record in outcome.records:
            print_worst(output, record)
        output.print_lines(*tell_redactions(outcome.records))
        output.print_files(outcome.files)
    elif outcome.records and not quiet:
        for record in outcome.records:
            print_models(output, record)
        models = [model for record in outcome.records for model in record.models]
        for group in group_by_protocol(models):
            judged = [verdict for place in group for verdict in models[place].verdicts]
            output.print(tabulate_verdicts(judged, verbose=verbose))
        for record in outcome.records:
            for verdict in record.verdicts:
                if breaches(verdict, record.policy.inconclusive):
                    output.print(f"{explain_verdict(verdict)}\n")
        output.print_lines(*([] if verbose else list_unproved(verdicts)))
        output.print_lines(*list_waived(verdicts), *([] if verbose else list_skipped(verdicts)))
        output.print_lines(*tell_redactions(outcome.records))
        output.print_files(outcome.files)
    if outcome.records:
        output.print_lines(f"{name}: {tell_ending(outcome)}" if name else tell_ending(outcome), style="bold")
    stopped = dict.fromkeys(
        model.stopped for record in outcome.records for model in record.models if model.stopped
    )
    told = [f"{reason}; what is not decided is inconclusive" for reason in stopped]
    for trace in outcome.tracebacks:
        typer.echo(printable_lines(trace), err=True)
    for line in [*told, *outcome.remarks, *outcome.complaints, *outcome.defects]:
        print_line(f"sw-audit: {line}", err=True)
