"""`sw-audit replay`: a record measured again, and whether its verdicts reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column
from rich.text import Text

from sw_audit.checks.explain import write_figure
from sw_audit.cli.options import AsJson, Unverified
from sw_audit.cli.printing import Output, make_table, print_json
from sw_audit.cli.progress import show_progress
from sw_audit.cli.record_files import place_record, write_record
from sw_audit.errors import InputError
from sw_audit.evidence.replay import Agreement, Replay, Replayed, replay_record
from sw_audit.evidence.verify import require_verified
from sw_audit.record.store import open_stored_baseline

DIFFERS, OPEN = 1, 3
_STYLES = {
    Agreement.EXACT: "green",
    Agreement.WITHIN: "green",
    Agreement.OPEN: "yellow",
    Agreement.DIFFERS: "bold red",
}
_FIGURES = ("status", "observed", "low", "high")


def replay(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD", help="A record.json, a report.html, a folder with one, or a baseline's name."
        ),
    ],
    checks: Annotated[
        list[str] | None, typer.Argument(metavar="[CHECK]...", help="Ids of the only checks to replay.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="ID=PATH", help="Where a model or parent lies now; may be given again."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER|FILE", help="Where the new record is written."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer only.")] = False,
    as_json: AsJson = False,
    unverified: Unverified = False,
) -> None:
    """Measure a record's models again, and say of every verdict whether it reproduces.

    By the record's own policy, seed, revision, dtype and device, without the cache, after the weights were held
    against the record's digests. A verdict reproduces if its status is the same and its figure lies within the
    recorded interval, or the intervals overlap; that it is exactly the same is told. What differs in the
    environment is named.

    Exit codes: 0 all verdicts reproduce, 1 one does not, 2 input that cannot be used, or weights that are not
    those of the record, 3 it cannot be told, 70 an error of sw-audit itself.

    For example:

      sw-audit replay sw-audit-out/record.json

      sw-audit replay release.html perplexity-ratio --model llama-w4=./llama-w4 -o replayed
    """
    held = require_verified(open_stored_baseline(record), record, unverified=unverified)
    places = dict(_split(word) for word in models or [])
    known = {model.id for model in held.models} | {one.descent.parent.id for one in held.results if one.descent}
    for name in places:
        if name.removesuffix(" (base)") not in known:
            found = f"the record knows {', '.join(sorted(known))}"
            raise InputError(f"--model {name}=PATH", found, "give one of these ids")
    files = place_record(output) if output is not None else {}

    replayed = replay_record(held, checks or [], places, lambda name: show_progress(name, quiet=quiet))
    if files:
        write_record(replayed.record, files, f"record {record}")
    code = {True: 0, False: DIFFERS, None: OPEN}[replayed.reproduced]
    if as_json:
        print_json(_describe(replayed, record))
    else:
        _print(replayed, files, quiet=quiet)
    raise typer.Exit(code)


def _split(word: str) -> tuple[str, str]:
    name, _, place = word.partition("=")
    if not name or not place:
        raise InputError(f"--model {word}", "it does not say where which model lies", "write --model ID=PATH")
    return name, place


def _describe(replayed: Replay, named: str) -> dict[str, Any]:
    def tell(one: Replayed) -> dict[str, Any]:
        sides = {"then": one.then, "now": one.now}
        return {
            "model": one.model,
            "check": one.check,
            "agreement": one.agreement.value,
            "because": one.because,
            **{
                side: None if verdict is None else {key: getattr(verdict, key) for key in _FIGURES}
                for side, verdict in sides.items()
            },
        }

    return {
        "schema": 1,
        "record": named,
        "reproduced": replayed.reproduced,
        "differences": list(replayed.differences),
        "verdicts": list(map(tell, replayed.verdicts)),
    }


def _print(replayed: Replay, files: dict[str, Path], *, quiet: bool) -> None:
    output = Output()
    if not quiet:
        head = [Column(title, overflow="fold") for title in ("model", "check", "replay", "then", "now", "because")]
        rows: list[list[str | Text]] = [
            [
                *(one.model, one.check, Text(one.agreement.value, style=_STYLES[one.agreement])),
                *("-" if side is None else write_figure(side) or "-" for side in (one.then, one.now)),
                one.because,
            ]
            for one in replayed.verdicts
        ]
        output.print(make_table(head, rows, padding=(0, 2, 0, 0)))
        told = "; ".join(replayed.differences) or "tool and environment are the same"
        output.print_lines(f"environment: {told}")
        output.print_files(files.items())
    ending = {True: "REPRODUCED", False: "NOT REPRODUCED", None: "CANNOT BE TOLD"}[replayed.reproduced]
    counts = {kind: sum(one.agreement is kind for one in replayed.verdicts) for kind in Agreement}
    tally = ", ".join(f"{number} {kind.value}" for kind, number in counts.items() if number)
    output.print_lines(f"{ending}: {tally}", style="bold")
