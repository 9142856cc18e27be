"""What a section is made of: paragraphs, tables, terms and charts, each laid out by a macro of `parts.html.j2`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from sw_audit.record.labels import label_status
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.text import NOTHING, format_number

_NAME = re.compile(r"[._\[/]")


@dataclass(frozen=True)
class Badge:
    """A status as word, sign and colour.

    Attributes:
        status: `pass`, `fail`, `inconclusive` or `skipped`: the name of its sign and colour.
        word: The word beside the sign.
    """

    status: str
    word: str

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> Badge:
        """Return the badge of a verdict; a waived one, or a law that does not hold, is shown but fails nothing."""
        word = label_status(verdict).capitalize()
        if verdict.waiver is not None:
            return cls("skipped", f"{word}, waived")
        quiet = verdict.level == "law" and verdict.status is Status.FAIL
        return cls("inconclusive" if quiet else verdict.status.value, word)

    @classmethod
    def of(cls, status: Status) -> Badge:
        """Return the badge of a status."""
        return cls(status.value, status.value.capitalize())


@dataclass(frozen=True)
class Cell:
    """A piece of text.

    Attributes:
        text: What it says.
        code: Whether it is set as code.
        href: Id of the element on this page that it leads to.
        badge: Shown in place of the text; before it in a link.
    """

    text: str
    code: bool = False
    href: str | None = None
    badge: Badge | None = None


Words: TypeAlias = Sequence[str | Cell | Badge | float | None]
"""A sentence or a row: plain text, code, badges, and figures, of which `None` is one that there is not."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text and code."""

    macro: ClassVar[str] = "paragraph"
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """The head of a column; figures are set flush right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its head; `fold` is what unfolds it, if it is not open at first."""

    macro: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    fold: str = ""


@dataclass(frozen=True)
class Terms:
    """Terms, each with what it stands for."""

    macro: ClassVar[str] = "terms"
    terms: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Chart:
    """A chart, and a table of the figures behind it.

    Drawings are SVG elements by layout, `wide` and `narrow`; there is none if the chart does not apply.
    """

    macro: ClassVar[str] = "chart"
    id: str
    title: str
    caption: str
    drawings: Mapping[str, str] = field(default_factory=dict)
    table: Table | None = None


@dataclass(frozen=True)
class Block:
    """Anything that has a layout of its own: a jinja template and what that reads, as `block.values`."""

    template: str
    values: Mapping[str, Any]


Element: TypeAlias = Paragraph | Table | Terms | Chart | Block


def text(*titles: str) -> list[Column]:
    """Make columns of text."""
    return [Column(title) for title in titles]


def figures(*titles: str) -> list[Column]:
    """Make columns of figures."""
    return [Column(title, numeric=True) for title in titles]


def code(value: object) -> Cell:
    """Make a cell of code."""
    return Cell(str(value), code=True)


def make_cells(words: Words) -> tuple[Cell, ...]:
    """Make cells: plain text as it is, figures with four digits."""
    return tuple(_make_cell(word) for word in words)


def _make_cell(word: str | Cell | Badge | float | None) -> Cell:
    match word:
        case Cell():
            return word
        case Badge():
            return Cell("", badge=word)
        case str():
            return Cell(word)
        case None:
            return Cell(NOTHING)
        case _:
            return Cell(format_number(word))


def make_paragraph(sentence: str | Words) -> Paragraph | None:
    """Make a paragraph; `None` of nothing."""
    cells = split_code(sentence) if isinstance(sentence, str) else make_cells(sentence)
    return Paragraph(cells) if cells else None


def make_table(caption: str, columns: Iterable[Column], rows: Iterable[Words], *, fold: str = "") -> Table | None:
    """Make a table; `None` without rows."""
    cells = tuple(make_cells(row) for row in rows)
    return Table(caption, tuple(columns), cells, fold) if cells else None


def make_terms(terms: Mapping[str, str | Cell | Words]) -> Terms | None:
    """Make a list of terms, leaving out those that stand for nothing."""
    listed = {
        name: make_cells([value] if isinstance(value, str | Cell) else value) for name, value in terms.items()
    }
    shown = tuple((name, cells) for name, cells in listed.items() if cells and cells[0].text)
    return Terms(shown) if shown else None


def split_code(sentence: str) -> tuple[Cell, ...]:
    """Make a sentence of a message: what stands between backticks is code, a full stop ends it."""
    plain = sentence.strip()
    if not plain:
        return ()
    ended = plain if plain[-1] in ".!?:" else f"{plain}."
    # A name such as that of a parameter is spelt as it is.
    first = ended.partition(" ")[0].rstrip(".,:;!?")
    pieces = (ended if _NAME.search(first) else f"{ended[0].upper()}{ended[1:]}").split("`")
    return tuple(Cell(piece, code=bool(place % 2)) for place, piece in enumerate(pieces) if piece)
