"""`sw-audit cache`: what is kept of earlier measurements, and clearing it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sw_audit.cli.options import AsJson, describe
from sw_audit.cli.printing import Output, make_table, print_json
from sw_audit.duration import write_duration
from sw_audit.runner.cache import FOLDER
from sw_audit.runner.cache_upkeep import (
    Entry,
    choose_entries,
    list_entries,
    parse_age,
    parse_size,
    read_sources,
    remove_entries,
)

_DAY = 86400


def cache(
    *,
    cache_dir: Annotated[Path | None, describe("cache-dir")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Let go of everything.")] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Let go of what was not used for so long, such as 30d.")
    ] = None,
    larger_than: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Let go of what was not used for longest, until no more is left."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is kept of earlier measurements, or clear it.

    An audit by itself keeps 2 GB for 90 days (`--cache-size`, `--cache-age`).

    For example:

      sw-audit cache

      sw-audit cache --older-than 30d --larger-than 500MB
    """
    folder = cache_dir or FOLDER
    age = None if older_than is None else parse_age(older_than, "older-than")
    size = 0 if clear else None if larger_than is None else parse_size(larger_than, "larger-than")
    entries, now = list_entries(folder), time.time()
    chosen = choose_entries(entries, now, older_than=age, larger_than=size)
    if not dry_run:
        remove_entries(folder, chosen)
    if as_json:
        going = {"removed": len(chosen), "removed_bytes": sum(entry.size for entry in chosen), "dry_run": dry_run}
        print_json({"schema": 1, "folder": str(folder), **_sum_up(entries), **going})
        return
    output = Output()
    if age is not None or size is not None:
        output.print_lines(f"{'would remove' if dry_run else 'removed'} {_tell(chosen)} of {_tell(entries)}")
        return
    output.print_lines(f"{folder}: {_tell(entries)}")
    if entries:
        summary = _sum_up(entries)
        for head, part in (("kind", "kinds"), ("model", "models")):
            rows = [
                [name, f"{row['entries']:,}", _write_size(row["bytes"]), _write_age(now - row["used"])]
                for name, row in summary[part].items()
            ]
            output.print_whole(make_table([head, "entries", "size", "last used"], rows))


def _sum_up(entries: Iterable[Entry]) -> dict[str, Any]:
    """Sum entries up by kind, and by model where an entry says it."""
    parts: dict[str, dict[str, list[Entry]]] = {"kinds": defaultdict(list), "models": defaultdict(list)}
    entries = list(entries)
    sources = read_sources(entries)
    for entry in entries:
        parts["kinds"][entry.kind].append(entry)
        parts["models"][sources.get(entry, "not said")].append(entry)
    return {
        part: {
            name: {
                "entries": len(some),
                "bytes": sum(entry.size for entry in some),
                "used": max(entry.used for entry in some),
            }
            for name, some in sorted(groups.items())
        }
        for part, groups in parts.items()
    }


def _tell(entries: list[Entry]) -> str:
    noun = "entry" if len(entries) == 1 else "entries"
    return f"{len(entries):,} {noun}, {_write_size(sum(entry.size for entry in entries))}"


def _write_size(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _write_age(seconds: float) -> str:
    days = seconds / _DAY
    return f"{write_duration(max(0.0, seconds))} ago" if days < 2 else f"{days:.0f} days ago"
