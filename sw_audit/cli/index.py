"""`sw-audit index`: published coordinates of super weights, with their sources."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sw_audit import __version__
from sw_audit.checkpoint.digest import digest_paths
from sw_audit.cli.listing import print_entry, print_index
from sw_audit.cli.options import AsJson
from sw_audit.cli.printing import print_json, print_line
from sw_audit.errors import OutputError
from sw_audit.index.growing import add_finding, describe_finding
from sw_audit.index.lookup import find_published, open_index
from sw_audit.index.reading import read_index
from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.record.published import Lookup, PublishedIndex, Source
from sw_audit.record.store import write_text

NOT_FOUND = 3


def index(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Hub id, or path of a checkpoint; all models without it."),
    ] = None,
    as_json: AsJson = False,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Read your own index file too.")
    ] = None,
) -> None:
    """Show the published super weights of a model, or of all models, with their sources.

    Other scalars that matter, of any parameter, stand below them.

    Ids are matched case aside. An Instruct or chat variant, and a folder or file that names the model it was made
    from, get the entry of that model, and the answer says so. A file is also known by its sha256. Where
    there is no entry, one line says so and names ids that are near.

    Exit codes: 0 found, 2 a file that is no index, 3 no entry for the model.

    For example:

      sw-audit index huggyllama/llama-7b

      sw-audit index ./out/llama-w4 --file my-index.toml
    """
    opened = open_index(file)
    if model is None:
        print_json(describe_index(opened)) if as_json else print_index(opened)
        return
    place = Path(model).expanduser()
    digests = [file.sha256 for file in digest_paths([place], place.parent)] if place.is_file() else ()
    answer = find_published(opened, model, digests=digests)
    if as_json:
        print_json(describe_lookup(answer))
    elif answer.model is not None:
        print_entry(answer)
    if answer.model is None:
        near = f"; the nearest are {', '.join(answer.nearest)}" if answer.nearest else ""
        print_line(f"sw-audit: {answer.because}{near} (`sw-audit index` lists all)", err=True)
        raise typer.Exit(NOT_FOUND)


def check_own_index(file: Path) -> None:
    """Complain about a file that is no index, or could not be written, before anything heavy is done."""
    if file.exists():
        read_index(file)
    place = file.expanduser().resolve().parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise OutputError(f"index {file}", "it cannot be written there", "name a file in a folder that exists")


def update_own_index(
    file: Path, identity: ModelIdentity, location: Location, search: CriticalSearch | None = None
) -> str:
    """Add what was located, and what a search found to matter, to a user's own index, and say so."""
    finding = describe_finding(
        identity,
        location,
        tool=f"sw-audit {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(DEFAULT_SETTINGS),
        search=search,
    )
    added = add_finding(file, finding, write_text)
    count = len(location.super_weights)
    what = f"{count} super weight{'' if count == 1 else 's'}" if count else f"the outcome {location.outcome}"
    if search is not None:
        matter = len(search.critical)
        what = f"{what} and {matter} scalar{'' if matter == 1 else 's'} that matter{'s' if matter == 1 else ''}"
    what = f"{what} of {finding[1].id}"
    return f"sw-audit: {what} {'added to' if added else 'already, by the same finding, in'} {file}"


def describe_index(opened: PublishedIndex) -> dict[str, Any]:
    """Put an index into the JSON object that other programs read."""
    plain = opened.model_dump(mode="json")
    return {"schema": 1, "models": plain["models"], "sources": _refer(opened.sources)}


def describe_lookup(answer: Lookup) -> dict[str, Any]:
    """Put an answer of the index into the JSON object that other programs read."""
    plain = answer.model_dump(mode="json")
    return {
        "schema": 1,
        **{key: plain[key] for key in ("asked", "match", "because", "nearest", "model")},
        "sources": _refer(answer.sources),
    }


def _refer(sources: tuple[Source, ...]) -> list[dict[str, Any]]:
    return [{**source.model_dump(mode="json"), "reference": source.reference} for source in sources]
