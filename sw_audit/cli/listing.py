"""How the command line shows an index: a line per coordinate of every model, or one model in full."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sw_audit.cli.table import make_console
from sw_audit.record.published import Effect, Lookup, PublishedIndex, PublishedModel, PublishedWeight, Source

_BEARINGS = (
    "bearing: alone = zeroing it alone is a collapse; jointly = only zeroing its set is; minor = it does less; "
    "unmeasured = nobody has told; refuted = a known false positive"
)
_ENDLESS = 10_000
"""Columns: more than any table has."""


def print_index(opened: PublishedIndex) -> None:
    """Print one line per coordinate of all models, who disagrees, and what the keys of the sources mean."""
    console = make_console()
    _say(console, f"{len(opened.models)} models; `sw-audit index MODEL` shows one with all figures and remarks")
    console.print()
    rows = [
        (entry.id if not place else "", *_write_weight(weight))
        for entry in opened.models
        for place, weight in enumerate(entry.weights)
    ]
    rows += [
        (
            entry.id,
            "-",
            "-",
            "-",
            "-",
            "none",
            ", ".join(key for remark in entry.remarks for key in remark.sources),
        )
        for entry in opened.models
        if not entry.weights
    ]
    _print_table(console, ("model", "layer", "row", "column", "value", "bearing", "sources"), rows)
    _say(console, _BEARINGS)
    disputed = [
        entry.id for entry in opened.models if any(remark.kind == "disagreement" for remark in entry.remarks)
    ]
    if disputed:
        _say(console, f"sources disagree about {', '.join(disputed)}")
    _print_part(console, "sources", (f"[{source.key}] {source.reference}" for source in opened.sources))
    sys.stdout.flush()


def print_entry(answer: Lookup) -> None:
    """Print one entry in full: coordinates, disagreements, what zeroing and scaling did, notes, sources."""
    if answer.model is None:
        return
    entry, console = answer.model, make_console()
    console.print(Text(entry.id, style="bold"), soft_wrap=True)
    _say(console, f"asked for {answer.asked}: {answer.because}")
    if entry.weights:
        console.print()
        head = ("layer", "row", "column", "value", "bearing", "sources")
        _print_table(console, head, [_write_weight(weight) for weight in entry.weights])
        _say(console, _BEARINGS)
    remarks = [(remark.kind, _cite(remark.words, remark.sources)) for remark in entry.remarks]
    _print_part(console, "sources disagree", (words for kind, words in remarks if kind == "disagreement"))
    _print_part(console, "zeroed", _list_effects(entry))
    _print_part(console, "scaled", _list_curves(entry))
    _print_part(console, "notes", [*_list_notes(entry), *(words for kind, words in remarks if kind == "note")])
    claims = (_cite(f"{variant.id}: {variant.claim}", variant.sources) for variant in entry.variants)
    _print_part(console, "claimed for others", claims)
    _print_part(console, "sources", (_describe_source(source) for source in answer.sources))
    sys.stdout.flush()


def _list_effects(entry: PublishedModel) -> Iterator[str]:
    """Write each effect once, with all the scalars that the source says it of."""
    members: dict[Effect, list[str]] = {}
    for weight in entry.weights:
        for effect in weight.effects:
            members.setdefault(effect, []).append(str(weight))
    for effect, places in members.items():
        row = ", its whole row" if effect.zeroed == "row" else ""
        each = ", each alone" if len(places) > 1 else ""
        yield _cite(f"{', '.join(places)}{row}{each}: {effect.words}", [effect.source])
    for effect in entry.effects:
        yield _cite(f"together: {effect.words}", [effect.source])


def _list_curves(entry: PublishedModel) -> Iterator[str]:
    for curve in entry.curves:
        points = ", ".join(f"{factor:g}:{figure:g}" for factor, figure in curve.points)
        yield _cite(f"{curve.quantity}: {points}", [curve.source])


def _list_notes(entry: PublishedModel) -> Iterator[str]:
    members: dict[str, list[str]] = {}
    for weight in entry.weights:
        if weight.note:
            members.setdefault(weight.note, []).append(str(weight))
    yield from (f"{', '.join(places)}: {note}" for note, places in members.items())


def _describe_source(source: Source) -> str:
    note = f" {source.note}" if source.note else ""
    said = f"[{source.key}] {source.reference} (trust: {source.trust}).{note}"
    if (made := source.finding) is None:
        return said
    how = f"{made.dtype}, prompt {made.prompt!r}, {'BOS' if made.bos else 'no BOS'}, digest {made.digest[:12]}"
    return f"{said} Made {made.created} in {how}."


def _cite(words: str, keys: Iterable[str]) -> str:
    cited = ", ".join(keys)
    return f"{words} [{cited}]" if cited else words


def _write_weight(weight: PublishedWeight) -> tuple[str, ...]:
    expert = "" if weight.expert is None else f" (expert {weight.expert})"
    layer, row, column = ("-" if part is None else str(part) for part in weight.coordinate[:3])
    value = "-" if weight.value is None else f"{weight.value:.12g}"
    return f"{layer}{expert}", row, column, value, str(weight.bearing), ", ".join(weight.sources)


def _print_part(console: Console, title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    if shown:
        console.print()
        console.print(Text(title, style="bold"))
    for line in shown:
        _say(console, line, indent="  ")


def _say(console: Console, text: str, indent: str = "") -> None:
    """Print a text, its further lines indented; words, such as addresses and numbers, stay whole."""
    lines = textwrap.wrap(
        text,
        console.width,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _print_table(console: Console, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table as wide as it is: an id that is broken over lines, or cut off, cannot be copied."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in head:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    needed = Measurement.get(console, console.options.update(max_width=_ENDLESS), table).maximum
    Console(highlight=False, markup=False, emoji=False, width=max(console.width, needed)).print(table)
    console.print()
