"""`sw-audit diff`: what changed from one record to another, and whether anything is worse."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column
from rich.text import Text

from sw_audit.checks.estimate import Estimate, EstimateStatus, write_interval
from sw_audit.checks.judging import judge_result
from sw_audit.checks.quality_not_worse import quality_not_worse
from sw_audit.cli.options import AsJson, Unverified
from sw_audit.cli.printing import Output, make_table, print_json
from sw_audit.evidence.verify import require_verified
from sw_audit.record.record import Record
from sw_audit.record.store import choose_baseline, one_line_nonsense, open_stored_baseline
from sw_audit.record.verdict import Status
from sw_audit.runner.diff import Change, compare_records, pair_models

WORSE = 1

Side = Annotated[
    str,
    typer.Argument(help="Name of a baseline, a record.json, a report.html, or the folder of an audit."),
]


def diff(before: Side, after: Side, as_json: AsJson = False, unverified: Unverified = False) -> None:
    """Say what changed from one record to another. Nothing is measured.

    Verdicts, super weights, super activations and limits are compared, and, where both were measured under one
    protocol, perplexity with its interval, by the limits of the later record. A check that passed and does not
    apply any more is worse, and so is a verdict that did not pass and is gone. Digests of files, the policy, the
    program's version, the environment and the date are told where they differ, and are neither.

    Exit codes: 0 nothing is worse, 1 something is, 2 a record that cannot be read, 70 an error of sw-audit itself.

    For example:

      sw-audit diff before sw-audit-out

      sw-audit diff main.json pull-request.json
    """
    then, now = (
        require_verified(open_stored_baseline(side), side, unverified=unverified) for side in (before, after)
    )
    with one_line_nonsense(f"record {before} or {after}"):
        changes = [*compare_records(then, now), *compare_quality(then, now, before)]
    worse = sum(change.worse is True for change in changes)
    if as_json:
        document = {"schema": 1, "before": before, "after": after, "worse": worse}
        print_json({**document, "changes": [asdict(change) for change in changes]})
    else:
        print_changes(changes)
    raise typer.Exit(WORSE if worse else 0)


def compare_quality(before: Record, after: Record, named: str) -> list[Change]:
    """Hold the perplexity of each model against the earlier one's, where it was measured in the same way."""
    changes = []
    for old, new in pair_models(before, after):
        earlier, later = before.find_model(old), after.find_model(new)
        same = earlier.protocol.signature == later.protocol.signature
        if not same or earlier.unedited is None or later.unedited is None:
            continue
        losses = (earlier.unedited.loss, later.unedited.loss)
        common = min(len(loss.tokens) for loss in losses)
        was, here = (loss.first(common) for loss in losses)
        if was == here:
            continue
        held = later.model_copy(update={"baseline": choose_baseline(before, named, [old])})
        policy = after.find_part(new).policy
        [verdict] = judge_result(held, policy.model_copy(update={"compare": named}), [quality_not_worse.id])
        doubt = verdict.status is Status.INCONCLUSIVE and policy.inconclusive == "fail"
        worse = True if verdict.status is Status.FAIL or doubt else None
        figure = Estimate(EstimateStatus.MEASURED, "", verdict.observed, verdict.low, verdict.high)
        times = write_interval(figure, policy.confidence)
        before_words, after_words = (_write_perplexity(loss.perplexity) for loss in (was, here))
        what = f"perplexity ({verdict.status.upper()})"
        changes.append(Change(new, what, before_words, f"{after_words}, times {times}", worse))
    return changes


def _write_perplexity(perplexity: float | None) -> str:
    return "not finite" if perplexity is None else f"{perplexity:.6g}"


def print_changes(changes: list[Change]) -> None:
    """Print one line per change, what is worse first, then what it comes to."""
    output = Output()
    words = {True: "worse", False: "better", None: ""}
    styles = {True: "bold red", False: "green", None: ""}
    if changes:
        head = [Column(title, overflow="fold") for title in ("", "model", "what", "before", "after")]
        rows = [
            (
                Text(words[change.worse], style=styles[change.worse]),
                *(change.model, change.what, change.before or "-", change.after or "-"),
            )
            for change in sorted(changes, key=lambda change: change.worse is not True)
        ]
        output.print(make_table(head, rows, padding=(0, 2, 0, 0)))
    worse, better, other = (sum(change.worse is key for change in changes) for key in (True, False, None))
    ending = "WORSE" if worse else "NOT WORSE" if changes else "SAME"
    tally = f"{worse} worse, {better} better, {other} other changes" if changes else "nothing changed"
    output.print(Text(f"{ending}: {tally}", style="bold"))
