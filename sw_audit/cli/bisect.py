"""`sw-audit bisect`: the first checkpoint of a series at which a check turns from pass to fail."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sw_audit.checkpoint.series import find_lack, is_numbered, list_series
from sw_audit.checks.explain import FAILED, INCONCLUSIVE, PASSED, write_figure, write_limit
from sw_audit.checks.registry import find_checks
from sw_audit.cli.audit import find_root
from sw_audit.cli.options import AsJson, describe
from sw_audit.cli.printing import print_json, print_line
from sw_audit.cli.progress import show_progress
from sw_audit.errors import AuditError, InputError
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner import run
from sw_audit.runner.assignments import SeriesOrder, order_series_audit
from sw_audit.runner.bisection import Turn, find_turn
from sw_audit.runner.cache import Cache, open_cache
from sw_audit.runner.options import AuditSettings
from sw_audit.runner.output import tell_error, tidy_cache
from sw_audit.runner.pair import Parents
from sw_audit.stopping import StoppedError, Stopper

_FIGURES = ("quantity", "observed", "low", "high", "limit")


def bisect(
    base: Annotated[str, typer.Argument(metavar="BASE", help="What the series began with: a path or a hub id.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that holds the checkpoints of the series.")
    ],
    check: Annotated[str, typer.Argument(metavar="CHECK", help="Id of the check.")],
    *,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Policy with the text, limits, and at most one [[model]], which stands for every checkpoint.",
        ),
    ] = None,
    cache: Annotated[
        bool, typer.Option(help="Keep measurements; an unchanged model is not measured again.")
    ] = True,
    cache_dir: Annotated[Path | None, describe("cache-dir")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer only.")] = False,
) -> None:
    """Find the first checkpoint of a series at which a check turns from pass to fail, by bisection.

    Checkpoints such as checkpoint-500 and checkpoint-1000 are ordered by number, others by when they were written.
    Each is held beside BASE, or audited by itself if the check is about a model alone. The first and the last come
    first, then the middle of what is left: that assumes that the check, once it fails, fails from then on. Where
    one is inconclusive its neighbours are tried, and the answer may be a range.

    Exit codes: 0 all that were audited pass, 1 one fails, 2 usage or input error, 3 no turn was found and one is
    inconclusive, or the run was stopped, 70 an error of sw-audit itself.

    For example:

      sw-audit bisect ./llama ./run perplexity-ratio

      sw-audit bisect ./llama ./run super-weight-retained --policy audit.swaudit.toml --json
    """
    started = time.monotonic()
    values = {"policy": policy, "check": [check], "parent": base, "cache-dir": cache_dir, "no-cache": not cache}
    settings = AuditSettings.of_values(values)
    order = order_series_audit(settings, find_root())
    listed = [member.path for member in list_series(directory, order.model.parent)]
    if find_checks()[check].scope == "model":
        order = replace(order, model=order.model.model_copy(update={"parent": None}))
    lacks = {path: lack for path in listed if (lack := find_lack(order.make_model(path))) is not None}
    paths = [path for path in listed if path not in lacks]
    for path, lack in lacks.items():
        print_line(f"sw-audit: {path.name} is left out, for it is not whole: {lack}", err=True)
    if len(paths) < 2:
        found = "it holds one whole checkpoint" if paths else "it holds no whole checkpoint"
        raise InputError(f"folder {str(directory)!r}", found, "give a folder with two or more")
    kept = open_cache(cache_dir, asked=cache_dir is not None) if cache else None
    series = _Series(order, paths, check, kept, Stopper(order.policy.budget, started), quiet, quiet or as_json)
    turn = None
    try:
        turn = find_turn(len(paths), series.judge)
    except StoppedError as stopped:
        print_line(f"sw-audit: {stopped}", err=True)
    tidy_cache(kept, settings)
    if as_json:
        asked = {"base": base, "directory": str(directory), "check": check}
        print_json({"schema": 1, **asked, **series.describe(turn)})
    else:
        if not quiet:
            print_line(
                f"{len(series.steps)} of {len(paths)} checkpoints were audited, in order of "
                f"{'number' if series.numbered else 'time'}; this assumes that {check}, once it fails, fails from "
                "then on"
            )
        print_line(series.tell(turn))
    raise typer.Exit(series.conclude(turn))


@dataclass(frozen=True)
class _Step:
    """One checkpoint that was audited: its verdict, or why there is none."""

    verdict: Verdict | None
    because: str

    @property
    def status(self) -> Status:
        return Status.INCONCLUSIVE if self.verdict is None else self.verdict.status

    def tell(self) -> str:
        """Write the figure, such as `perplexity ratio 1.3 [1.2, 1.4], limit 1.1`; else why there is none."""
        if self.verdict is None or not (figure := write_figure(self.verdict)):
            return self.because
        limit = write_limit(self.verdict)
        return f"{self.verdict.quantity} {figure}{f', limit {limit}' if limit else ''}"


class _Series:
    """The checkpoints, in order, and the steps of the bisection by place."""

    def __init__(
        self,
        order: SeriesOrder,
        paths: list[Path],
        check: str,
        cache: Cache | None,
        stopper: Stopper,
        quiet: bool,
        silent: bool,
    ) -> None:
        self.order, self.paths, self.check, self.cache, self.stopper = order, paths, check, cache, stopper
        self.quiet, self.silent, self.parents = quiet, silent, Parents()
        self.numbered = is_numbered(paths)
        self.steps: dict[int, _Step] = {}

    def judge(self, place: int) -> Status:
        """Audit the checkpoint at a place, and print what came of it."""
        step = self.steps[place] = self._audit(self.paths[place])
        if not self.silent:
            width = max(len(path.name) for path in self.paths)
            print_line(f"{self.paths[place].name:<{width}}  {step.status.upper()}, {step.tell()}")
        return step.status

    def _audit(self, path: Path) -> _Step:
        assignment = self.order.assign([path])
        [model] = assignment.policy.models
        try:
            run.preflight(assignment.policy)
            with show_progress(model.id, quiet=self.quiet) as progress:
                watched = self.stopper.watch(progress)
                audited = assignment.run(model.id, progress=watched, cache=self.cache, parents=self.parents)
        except AuditError as error:
            return _Step(None, tell_error(error))
        self.stopper.check()
        verdict = next((verdict for verdict in audited.verdicts if verdict.check == self.check), None)
        return _Step(verdict, "there is no verdict" if verdict is None else verdict.because)

    def conclude(self, turn: Turn | None) -> int:
        """Return how the program exits."""
        statuses = {step.status for step in self.steps.values()}
        if Status.FAIL in statuses:
            return FAILED
        return PASSED if statuses == {Status.PASS} and turn is not None else INCONCLUSIVE

    def tell(self, turn: Turn | None) -> str:
        """Write the answer in a line; `None` for a bisection that was stopped."""
        if turn is None:
            return f"{self.check}: the bisection was stopped; the next run goes on from the cache"
        if turn.low is None or turn.high is None or turn.outcome == "undecided":
            return f"{self.check}: of {len(self.steps)} checkpoints fewer than two could be decided"
        low, high = self.paths[turn.low].name, self.paths[turn.high].name
        before, after = self.steps[turn.low].tell(), self.steps[turn.high].tell()
        if turn.outcome == "alike":
            status = self.steps[turn.low].status.upper()
            return f"{self.check} does not turn: {low} and {high} are alike, {status}; {before}; {after}"
        if turn.outcome == "backwards":
            return f"{self.check} does not turn from pass to fail: {low}: {before}; {high}: {after}"
        if len(turn.candidates) == 1:
            return f"{high} is the first at which {self.check} fails: {after}; {low}, before it: {before}"
        names = ", ".join(self.paths[place].name for place in turn.candidates)
        return f"{self.check} turns at one of {names}; {low}, before them: {before}; {high}: {after}"

    def describe(self, turn: Turn | None) -> dict[str, Any]:
        """Return the answer and all steps as values of plain JSON types."""
        names = [path.name for path in self.paths]
        turned = turn if turn is not None and turn.outcome == "turned" else None
        candidates = [] if turned is None else [names[place] for place in turned.candidates]
        return {
            "order": "number" if self.numbered else "time",
            "checkpoints": names,
            "steps": [
                {"checkpoint": names[place], "status": step.status, "because": step.because}
                | {name: getattr(step.verdict, name, None) for name in _FIGURES}
                for place, step in self.steps.items()
            ],
            "outcome": "stopped" if turn is None else turn.outcome,
            "before": None if turned is None or turned.low is None else names[turned.low],
            "first": candidates[0] if len(candidates) == 1 else None,
            "candidates": candidates,
        }
