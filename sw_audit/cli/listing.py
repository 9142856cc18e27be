"""How the command line shows an index: a line per coordinate of every model, or one model in full."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Column

from sw_audit.cli.printing import Output, make_table
from sw_audit.record.published import Effect, Lookup, PublishedIndex, PublishedModel, PublishedWeight, Source

_BEARINGS = (
    "bearing: alone = zeroing it alone is a collapse; jointly = only zeroing its set is; minor = it does less; "
    "unmeasured = nobody has told; refuted = a known false positive"
)

_SCALAR_HEAD = ("scalar of any parameter", "value", "bearing", "sources")


def print_index(opened: PublishedIndex) -> None:
    """Print one line per coordinate of all models, who disagrees, and what the keys of the sources mean."""
    output = Output()
    _say(output, f"{len(opened.models)} models; `sw-audit index MODEL` shows one with all figures and remarks")
    output.print()
    rows = [
        (entry.id if not place else "", *_write_weight(weight))
        for entry in opened.models
        for place, weight in enumerate(weight for weight in entry.weights if weight.scalar is None)
    ]
    rows += [
        (entry.id, *("-" * 4), "none", ", ".join(key for remark in entry.remarks for key in remark.sources))
        for entry in opened.models
        if not entry.weights
    ]
    _print_table(output, ("model", "layer", "row", "column", "value", "bearing", "sources"), rows)
    others = [
        (entry.id, *_write_scalar(weight))
        for entry in opened.models
        for weight in entry.weights
        if weight.scalar is not None
    ]
    _print_table(output, ("model", *_SCALAR_HEAD), others)
    _say(output, _BEARINGS)
    disputed = [
        entry.id for entry in opened.models if any(remark.kind == "disagreement" for remark in entry.remarks)
    ]
    if disputed:
        _say(output, f"sources disagree about {', '.join(disputed)}")
    _print_part(output, "sources", (f"[{source.key}] {source.reference}" for source in opened.sources))


def print_entry(answer: Lookup) -> None:
    """Print one entry in full: coordinates, disagreements, what zeroing and scaling did, notes, sources."""
    if answer.model is None:
        return
    entry, output = answer.model, Output()
    output.print_lines(entry.id, style="bold")
    _say(output, f"asked for {answer.asked}: {answer.because}")
    if entry.weights:
        output.print()
        head = ("layer", "row", "column", "value", "bearing", "sources")
        weights = [_write_weight(weight) for weight in entry.weights if weight.scalar is None]
        _print_table(output, head, weights)
        others = [_write_scalar(weight) for weight in entry.weights if weight.scalar is not None]
        _print_table(output, _SCALAR_HEAD, others)
        _say(output, _BEARINGS)
    remarks = [(remark.kind, _cite(remark.words, remark.sources)) for remark in entry.remarks]
    _print_part(output, "sources disagree", (words for kind, words in remarks if kind == "disagreement"))
    _print_part(output, "zeroed", _list_effects(entry))
    _print_part(output, "scaled", _list_curves(entry))
    _print_part(output, "notes", [*_list_notes(entry), *(words for kind, words in remarks if kind == "note")])
    claims = (_cite(f"{variant.id}: {variant.claim}", variant.sources) for variant in entry.variants)
    _print_part(output, "claimed for others", claims)
    _print_part(output, "sources", (_describe_source(source) for source in answer.sources))


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
    return f"{layer}{expert}", row, column, *_write_scalar(weight)[1:]


def _write_scalar(weight: PublishedWeight) -> tuple[str, ...]:
    value = "-" if weight.value is None else f"{weight.value:.12g}"
    return str(weight), value, str(weight.bearing), ", ".join(weight.sources)


def _print_part(output: Output, title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    if shown:
        output.print()
        output.print_lines(title, style="bold")
    for line in shown:
        _say(output, line, indent="  ")


def _say(output: Output, text: str, indent: str = "") -> None:
    """Print a text, its further lines indented; words, such as addresses and numbers, stay whole."""
    lines = textwrap.wrap(
        text,
        output.width,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    output.print_lines(*lines)


def _print_table(output: Output, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    columns = [Column(title, no_wrap=True) for title in head]
    output.print_whole(make_table(columns, rows, show_edge=False, padding=(0, 1, 0, 0)))
    output.print()
