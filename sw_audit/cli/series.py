"""`sw-audit audit --watch`: the checkpoints of a training run, each audited as soon as it is whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from sw_audit.cli.auditing import Outcome, print_outcome, tell_ending
from sw_audit.cli.junit import write_junit
from sw_audit.cli.printing import Output, print_line
from sw_audit.cli.progress import show_progress
from sw_audit.duration import write_duration
from sw_audit.errors import CheckpointError, OutputError
from sw_audit.runner import run
from sw_audit.runner.assignments import SeriesOrder, order_series_audit
from sw_audit.runner.awaiting import AwaitedSeries
from sw_audit.runner.cache import Cache
from sw_audit.runner.options import AuditSettings
from sw_audit.runner.output import (
    check_places,
    draft_record,
    is_baseline,
    tell_error,
    tidy_cache,
    write_drafts,
)
from sw_audit.runner.pair import Parents
from sw_audit.stopping import Stopper, tell_stopping

EVERY = 1.0
"""Seconds between two looks into the folder."""


def audit_series(
    settings: AuditSettings,
    folder: Path,
    idle: float | None,
    places: tuple[Path, Path],
    *,
    debug: bool,
    quiet: bool,
    verbose: bool,
    started: float,
) -> int:
    """Audit the checkpoints in a folder as they are written, print each, and return the exit code.

    All files are written anew after each checkpoint, with all so far. The run ends when nothing has changed in
    the folder for `idle` seconds, and else by a signal, by the policy's budget, or when the folder is gone.
    `places` is where the JUnit XML goes, and the folder whose pyproject.toml counts.

    Raises:
        InputError: If something asked for cannot be used, as far as it can be told before anything is measured.
    """
    cache = check_places(settings)
    order = order_series_audit(settings, places[1])
    if is_baseline(order.policy.compare, settings.out):
        raise OutputError(
            f"output folder {settings.out}",
            "the record in it is what every checkpoint is held against",
            "name another folder with --out",
        )
    stopper = Stopper(order.policy.budget, started)
    audit = _SeriesAudit(order, settings, places[0], cache, stopper, debug=debug, quiet=quiet, verbose=verbose)
    series = AwaitedSeries(folder, order.make_model, order.model.parent, audit.tell, time.monotonic())
    series.look(time.monotonic())  # whether the folder is there
    with stopper.heeding_signals(tell_stopping):
        audit.follow(series, folder, idle)
        tidy_cache(cache, settings)
    output, outcome, count = Output(), audit.outcome, len(series.audited)
    output.print_files([] if quiet else outcome.files)
    checkpoints = "1 checkpoint" if count == 1 else f"{count} checkpoints"
    output.print_lines(f"{checkpoints}: {tell_ending(outcome)}", style="bold")
    return outcome.code


@dataclass
class _SeriesAudit:
    """What is asked for, and what came of it: `steps` of each checkpoint, `outcome` of all, as written last."""

    order: SeriesOrder
    settings: AuditSettings
    junit: Path
    cache: Cache | None
    stopper: Stopper
    debug: bool
    quiet: bool
    verbose: bool
    steps: dict[Path, Outcome] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    parents: Parents = field(default_factory=Parents)
    told: set[str] = field(default_factory=set)

    def tell(self, *lines: str) -> None:
        """Tell something on standard error, each line once."""
        for line in lines:
            if line not in self.told:
                self.told.add(line)
                print_line(f"sw-audit: {line}", err=True)

    def follow(self, series: AwaitedSeries, folder: Path, idle: float | None) -> None:
        """Audit one checkpoint after the other until the run is to end."""
        ended = time.monotonic()
        try:
            while (reason := self.stopper.reason) is None:
                now = time.monotonic()
                if ready := series.look(now):
                    self._audit(series, ready[0])
                    ended = time.monotonic()
                elif idle is not None and not series.settling and now - max(series.changed, ended) >= idle:
                    self.tell(f"nothing new came into {folder} for {write_duration(idle)}")
                    self.complaints += [f"{one.name} is not whole: {lack}" for one, lack in series.lacking.items()]
                    break
                else:
                    time.sleep(EVERY)
            if reason is not None:
                for path in series.look(time.monotonic()):
                    self._leave(series, path, reason)
        except CheckpointError as error:
            self.complaints.append(tell_error(error))
        self._write(series, self.settings)

    def _audit(self, series: AwaitedSeries, path: Path) -> None:
        assignment, step = self.order.assign([path]), Outcome()
        [case] = assignment.cases
        with (
            step.noting(case, assignment, debug=self.debug),
            show_progress(case.model, quiet=self.quiet) as progress,
        ):
            try:
                run.preflight(assignment.policy)
                watched = self.stopper.watch(progress)
                step.models[case] = assignment.run(
                    case.model, progress=watched, cache=self.cache, parents=self.parents
                )
            except Exception:
                if series.is_as_seen(path):
                    raise
        model = step.models.get(case)
        stopped = None if model is None else model.stopped
        if (model is None and not step.failures) or (stopped is not None and self.stopper.reason is None):
            self.tell(*([] if stopped is None or not path.is_dir() else [f"{case.model} waits again: {stopped}"]))
            series.wait_again(path, time.monotonic())
            return
        series.finish(path)
        if model is not None:
            step.audited = [(assignment, run.compose_record([model], assignment.policy, assignment.origin))]
        print_outcome(step, quiet=self.quiet, verbose=self.verbose, name=case.model)
        self.told.update((*step.complaints, *step.defects))
        self.steps[path] = step
        self._write(series, replace(self.settings, save=None, summary=False))

    def _leave(self, series: AwaitedSeries, path: Path, reason: str) -> None:
        """Put a checkpoint on record that was whole, and not audited before the run was stopped."""
        assignment = self.order.assign([path])
        [case] = assignment.cases
        left = run.fail_stopped(assignment.policy, case.model, assignment.checks[case.model], reason)
        self.steps[path] = Outcome(models={case: left})
        series.finish(path)
        self.tell(f"{case.model}: {left.message}")

    def _write(self, series: AwaitedSeries, settings: AuditSettings) -> None:
        """Write all files with what came of the series so far."""
        steps = [self.steps[path] for path in series.audited]
        outcome = Outcome(
            complaints=[*(line for step in steps for line in step.complaints), *self.complaints],
            defects=[line for step in steps for line in step.defects],
        )
        if any(step.models for step in steps):
            assignment = self.order.assign(series.audited)
            models = [model for step in steps for model in (*step.models.values(), *step.failures.values())]
            outcome.audited = [(assignment, run.compose_record(models, assignment.policy, assignment.origin))]
            draft = draft_record(outcome.records[0], settings.out, settings)
            draft.texts["junit"] = self.junit, write_junit(outcome.records)
            write_drafts([draft])
            outcome.files = [*draft.files.items()]
            outcome.remarks = [draft.remark] if draft.remark else []
            if draft.error is not None:
                outcome.note(draft.error)
        self.tell(*outcome.remarks, *outcome.complaints, *outcome.defects)
        self.outcome = outcome
