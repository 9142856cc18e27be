"""How the command line shows an audit: verdicts as a table, failures in full, then what it comes to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sw_audit.cli.listener import BAD_INPUT, FAILED, INCONCLUSIVE, PASSED, Listener
from sw_audit.record.record import Record
from sw_audit.record.verdict import Status, Verdict

_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.INCONCLUSIVE: "yellow", Status.SKIPPED: "dim"}
_ENDINGS = {PASSED: "PASSED", FAILED: "FAILED", INCONCLUSIVE: "INCONCLUSIVE", BAD_INPUT: "NOT COMPLETE"}
_PLAIN_WIDTH = 120
"""Columns of the table where the output is no terminal, so that a log holds whole lines."""


def print_verdicts(listener: Listener, files: Mapping[str, Path], *, quiet: bool, verbose: bool) -> None:
    """Print what was heard: the table on standard output, complaints on standard error.

    Args:
        listener: What was heard.
        files: What was written besides records and reports, by kind.
        quiet: Only the last line.
        verbose: Also the reason of every verdict.
    """
    console = make_console()
    if listener.records and not quiet:
        for record in listener.records:
            print_models(console, record)
        console.print(tabulate(listener.verdicts, verbose=verbose))
        for text in listener.explanations:
            console.print(Text(f"{text}\n"))
        for line in [*list_waived(listener.verdicts), *([] if verbose else list_skipped(listener.verdicts))]:
            console.print(Text(line), soft_wrap=True)
        for kind, path in (*listener.files, *files.items()):
            console.print(Text(f"{kind:<8}{os.path.relpath(path)}"), soft_wrap=True)
    if listener.records:
        console.print(Text(conclude(listener), style="bold"), soft_wrap=True)
    complain(listener)


def complain(listener: Listener) -> None:
    """Print on standard error why something was not done, a line each; a defect with its traceback."""
    lines = [*listener.complaints, *listener.defects]
    if listener.interrupted:
        lines = ["interrupted: no record was written"]
    if not lines and not listener.records:
        lines = ["nothing was audited"]
    for line in lines:
        typer.echo(f"sw-audit: {line}", err=True)


def make_console() -> Console:
    """Return the console of standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    return (
        console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH)
    )


def print_models(console: Console, record: Record) -> None:
    """Print what each model is, where its super weights are, and how its figures were measured."""
    for result in record.results:
        model, location = result.model, result.location
        console.print(Text(f"{model.id}", style="bold"), end="")
        console.print(
            Text(f"  {model.family}, {model.layers} layers, {model.parameters:,} parameters, {model.digest[:12]}")
        )
        for weight in location.super_weights:
            console.print(Text(f"  super weight {weight.address} = {weight.value:.4g}, share {weight.share:.3f}"))
        if not location.super_weights:
            console.print(Text(f"  no super weight: {location.outcome}, {location.because}"))
        console.print(Text(f"  protocol {result.protocol}"))
        for note in result.notes:
            console.print(Text(f"  note: {note}"))


def tabulate(verdicts: list[Verdict], *, verbose: bool) -> Table:
    """Lay the verdicts out as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("model", "check", "status"):
        table.add_column(title, no_wrap=True)
    table.add_column("observed [low, high]", no_wrap=not verbose)
    table.add_column("limit", no_wrap=True)
    if verbose:
        table.add_column("because")
    for verdict in verdicts:
        status = f"{verdict.status.upper()}{'' if verdict.waiver is None else ' (waived)'}"
        row = [verdict.model, verdict.check, status, write_figure(verdict), write_limit(verdict)]
        row += [verdict.because] if verbose else []
        table.add_row(
            *(Text(cell, style=_choose_style(verdict) if place == 2 else "") for place, cell in enumerate(row))
        )
    return table


def list_waived(verdicts: list[Verdict]) -> list[str]:
    """Say who answers for what does not pass, until when, and why."""
    return [f"waived {verdict.model} {verdict.check} {verdict.waiver}" for verdict in verdicts if verdict.waiver]


def list_skipped(verdicts: list[Verdict]) -> list[str]:
    """Say why checks do not apply, once for all checks of a model that do not for the same reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.status is Status.SKIPPED:
            reasons.setdefault((verdict.model, verdict.because), []).append(verdict.check)
    return [
        f"skipped {model} {checks[0] if len(checks) == 1 else f'{len(checks)} checks'}: {because}"
        for (model, because), checks in reasons.items()
    ]


def write_figure(verdict: Verdict) -> str:
    """Write what was measured with its interval."""
    from sw_audit.checks.estimate import write_number

    if verdict.observed is None:
        return "-"
    if verdict.low is None and verdict.high is None:
        return write_number(verdict.observed)
    low, high = ("unbounded" if end is None else write_number(end) for end in (verdict.low, verdict.high))
    return f"{write_number(verdict.observed)} [{low}, {high}]"


def write_limit(verdict: Verdict) -> str:
    """Write what a figure was held against, with all its digits."""
    return "-" if verdict.limit is None else f"{verdict.limit:.12g}"


def conclude(listener: Listener) -> str:
    """Write what it comes to, such as `FAILED: 8 pass, 2 fail`."""
    counts = Counter("waived" if verdict.waiver else str(verdict.status) for verdict in listener.verdicts)
    nothing = listener.exit_code == INCONCLUSIVE and Status.INCONCLUSIVE not in counts
    ending = "NOTHING AUDITED" if nothing else _ENDINGS[listener.exit_code]
    return f"{ending}: {', '.join(f'{counts[one]} {one}' for one in [*map(str, Status), 'waived'] if counts[one])}"


def _choose_style(verdict: Verdict) -> str:
    return _STYLES[verdict.status] if verdict.waiver is None else "yellow"
