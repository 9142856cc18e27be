"""`sw-audit diff`: what changed from one record to another, and whether anything is worse."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from sw_audit.checks.estimate import Estimate, EstimateStatus, write_interval
from sw_audit.checks.judging import judge_result
from sw_audit.checks.quality_not_worse import quality_not_worse
from sw_audit.cli.options import AsJson
from sw_audit.cli.table import make_console
from sw_audit.record.record import Record
from sw_audit.record.store import choose_baseline, open_baseline
from sw_audit.record.verdict import Status
from sw_audit.runner.diff import Change, compare_records, pair_models

WORSE = 1

Side = Annotated[
    str,
    typer.Argument(help="Name of a baseline, a record.json, a report.html, or the folder of an audit."),
]


def diff(before: Side, after: Side, as_json: AsJson = False) -> None:
    """Say what changed from one record to another. Nothing is measured.

    Verdicts, super weights, super activations and limits are compared, and, where both were measured under one
    protocol, perplexity with its interval, by the limits of the later record. A check that passed and does not
    apply any more is worse; one that only one of the records has is told, and is neither.

    Exit codes: 0 nothing is worse, 1 something is, 2 a record that cannot be read.

    For example:

      sw-audit diff before sw-audit-out

      sw-audit diff main.json pull-request.json
    """
    then, now = open_baseline(before), open_baseline(after)
    changes = [*compare_records(then, now), *compare_quality(then, now, before)]
    worse = sum(change.worse is True for change in changes)
    if as_json:
        document = {"schema": 1, "before": before, "after": after, "worse": worse}
        listed = [asdict(change) for change in changes]
        typer.echo(json.dumps({**document, "changes": listed}, indent=2, allow_nan=False, ensure_ascii=False))
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
        if earlier.unedited.loss == later.unedited.loss:
            continue
        held = later.model_copy(update={"baseline": choose_baseline(before, named, [old])})
        [verdict] = judge_result(held, after.policy.model_copy(update={"compare": named}), [quality_not_worse.id])
        doubt = verdict.status is Status.INCONCLUSIVE and after.policy.inconclusive == "fail"
        worse = True if verdict.status is Status.FAIL or doubt else None
        figure = Estimate(EstimateStatus.MEASURED, "", verdict.observed, verdict.low, verdict.high)
        times = write_interval(figure, after.policy.confidence)
        perplexities = [measured.loss.perplexity for measured in (earlier.unedited, later.unedited)]
        was, here = ("not finite" if perplexity is None else f"{perplexity:.6g}" for perplexity in perplexities)
        changes.append(Change(new, f"perplexity ({verdict.status.upper()})", was, f"{here}, times {times}", worse))
    return changes


def print_changes(changes: list[Change]) -> None:
    """Print one line per change, what is worse first, then what it comes to."""
    console = make_console()
    words = {True: "worse", False: "better", None: ""}
    styles = {True: "bold red", False: "green", None: ""}
    if changes:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("", "model", "what", "before", "after"):
            table.add_column(title, overflow="fold")
        for change in sorted(changes, key=lambda change: change.worse is not True):
            cells = (words[change.worse], change.model, change.what, change.before or "-", change.after or "-")
            table.add_row(*(Text(cell, style=styles[change.worse] if not place else "") for place, cell in
                            enumerate(cells)))  # fmt: skip
        console.print(table)
    counts = {word: sum(change.worse is key for change in changes) for key, word in words.items()}
    ending = "WORSE" if counts["worse"] else "NOT WORSE" if changes else "SAME"
    tally = f"{counts['worse']} worse, {counts['better']} better, {counts['']} other changes"
    console.print(Text(f"{ending}: {tally}" if changes else f"{ending}: nothing changed", style="bold"))
    sys.stdout.flush()
