"""`sw-audit verify`: whether a record is what was written, and what it was made from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from sw_audit.cli.options import AsJson
from sw_audit.cli.printing import Output, print_json
from sw_audit.cli.progress import show_progress
from sw_audit.errors import RecordError
from sw_audit.evidence.files import verify_texts, verify_weights
from sw_audit.evidence.verify import verify_record
from sw_audit.record.store import Doubt, StoredRecord, find_baseline_file, open_stored_baseline
from sw_audit.record.subjects import list_subjects

CHANGED, OPEN = 1, 3


def verify(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD", help="A record.json, a report.html, a folder with one, or a baseline's name."
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Weights to hold against the record's digests: folders or files of its models, parents and "
            "bases of adapters. ID=PATH says which it is.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what does not verify.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a record is what was written, and name every part of it that is not.

    The record's digest and form, and those of the page that carries it; the signature of every figure's protocol;
    every verdict, which is judged again from the measurements and the policy; the texts that are at hand; and the
    weights that are named. Nothing is measured.

    Exit codes: 0 all of it verifies, 1 something was changed, 2 it cannot be read, 3 it cannot be told.

    For example:

      sw-audit verify sw-audit-out/record.json ./llama-w4 ./llama
    """
    stored = _open(record)
    doubts = verify_record(stored, record)
    texts, differing = verify_texts(stored.record)
    subjects = list_subjects(stored.record)
    with show_progress("", quiet=quiet or as_json) as progress:
        weights, changed = verify_weights(subjects, models or [], progress)
    doubts += [*differing, *changed]
    unseen = [subject.name for subject in subjects if subject.name not in weights] if not changed else []
    if as_json:
        print_json(
            {
                "schema": 1,
                "record": record,
                "sha256": None if stored.digest is None else stored.digest.sha256,
                "changed": [{"where": one.where, "found": one.found} for one in doubts if not one.open],
                "open": [{"where": one.where, "found": one.found} for one in doubts if one.open],
                "verified": {"texts": texts, "weights": weights},
                "weights_not_given": unseen,
            }
        )
    else:
        _print(doubts, texts, weights, unseen, len(stored.record.verdicts), quiet=quiet)
    raise typer.Exit(CHANGED if any(not one.open for one in doubts) else OPEN if doubts else 0)


def _open(named: str) -> StoredRecord:
    """Read a record; a file that is there and is none any more was changed."""
    try:
        return open_stored_baseline(named)
    except RecordError as error:
        if not find_baseline_file(named).is_file():
            raise
        typer.echo(f"sw-audit: {error}", err=True)
        raise typer.Exit(CHANGED) from None


def _print(
    doubts: list[Doubt], texts: list[str], weights: list[str], unseen: list[str], verdicts: int, *, quiet: bool
) -> None:
    output = Output()
    for doubt in sorted(doubts, key=lambda doubt: doubt.open):
        output.print(Text(f"{'cannot be told' if doubt.open else 'CHANGED'}  {doubt}"))
    changed = sum(not doubt.open for doubt in doubts)
    if not quiet:
        for what, names in (("text", texts), ("weights", weights)):
            for name in names:
                output.print(Text(f"as recorded  {what} {name}"))
        if unseen:
            output.print(Text(f"not looked at  weights {', '.join(unseen)}: name their folders"))
        if not changed:
            output.print(Text(f"{verdicts} verdicts follow from the measurements and the policy"))
    ending = f"CHANGED: {changed} of its parts" if changed else "CANNOT BE TOLD" if doubts else "VERIFIED"
    if not quiet or doubts:
        output.print(Text(ending, style="bold"))
