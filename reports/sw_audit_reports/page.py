"""The vocabulary of the page: frozen values that a template can lay out without knowing what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sw_audit.record.verdict import Status

_NAME = re.compile(r"[._\[/]")
_WORDS = {
    Status.PASS: "Pass",
    Status.FAIL: "Fail",
    Status.INCONCLUSIVE: "Inconclusive",
    Status.SKIPPED: "Skipped",
}


@dataclass(frozen=True)
class Badge:
    """A status, told by word, sign and colour.

    Attributes:
        status: `pass`, `fail`, `inconclusive` or `skipped`: the name of its sign and colour.
        word: The word beside the sign.
    """

    status: str
    word: str

    @classmethod
    def of(cls, status: Status, *, waived: bool = False) -> Badge:
        """Return the badge of a status; one that somebody answers for is told, and fails nothing."""
        return cls("skipped", f"{_WORDS[status]}, waived") if waived else cls(status.value, _WORDS[status])


@dataclass(frozen=True)
class Cell:
    """A piece of text.

    Attributes:
        text: What it says.
        code: Whether it is set as code.
        href: Anchor on this page that it leads to.
        badge: Shown in place of the text; before it in a link.
    """

    text: str
    code: bool = False
    href: str | None = None
    badge: Badge | None = None


@dataclass(frozen=True)
class Column:
    """The head of a column; figures are set flush right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of each row is its head."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Term:
    """A term and what it stands for."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Drawing:
    """One chart in one layout.

    Attributes:
        layout: `wide` or `narrow`: which screens see it.
        markup: The SVG element.
    """

    layout: str
    markup: str


@dataclass(frozen=True)
class Chart:
    """A chart with its caption and the figures behind it.

    Attributes:
        id: Anchor.
        title: What it shows.
        caption: What to see in it.
        drawings: The chart, once per layout; none if it does not apply.
        table: The figures behind it.
    """

    id: str
    title: str
    caption: str
    drawings: tuple[Drawing, ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Card:
    """One check on one model.

    Attributes:
        id: Anchor.
        check: Id of the check.
        title: What it claims.
        badge: The verdict.
        meaning: What it means for somebody who ships the model.
        terms: What was measured, the limit, the protocol.
        because: The reason.
        remedy: What to do, if anything.
        paste: Lines that do it, each with where they go.
        waiver: Who answers for it, if somebody does.
        findings: The single figures.
        coordinates: The scalars it is about.
        command: How to reproduce it.
    """

    id: str
    check: str
    title: str
    badge: Badge
    meaning: str
    terms: tuple[Term, ...]
    because: tuple[Cell, ...]
    remedy: tuple[Cell, ...]
    paste: tuple[tuple[str, str], ...]
    waiver: str
    findings: Table | None
    coordinates: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Banner:
    """A verdict that one reads in five seconds.

    Attributes:
        badge: The verdict.
        sentence: What was found.
        tally: How many checks ended how.
        pointers: Links to what did not pass.
    """

    badge: Badge
    sentence: tuple[Cell, ...]
    tally: tuple[Badge, ...]
    pointers: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Works:
    """The section on how a model's super weights work.

    Attributes:
        told: What the set does, in words.
        figures: The charts.
        sets: What the set and its parts do.
    """

    told: str
    figures: tuple[Chart, ...]
    sets: Table | None


@dataclass(frozen=True)
class Quantizers:
    """The section on quantizers side by side.

    Attributes:
        told: What it comes to, in words.
        figure: Quality against bits; `None` if nothing was measured.
        rows: A row per quantizer that was measured, the model as it is first.
        unmeasured: Why there are no figures of others.
    """

    told: str
    figure: Chart | None
    rows: Table
    unmeasured: Table | None


@dataclass(frozen=True)
class OtherPrompts:
    """The section on what other prompts do to the super activations.

    Attributes:
        told: What they do, in words.
        breaking: The shortest prompt that breaks the law, if one was found.
        layers: What it does, layer by layer.
        prompts: Every prompt that was followed.
    """

    told: tuple[Cell, ...]
    breaking: tuple[Term, ...]
    layers: Table | None
    prompts: Table | None


def split_code(text: str) -> tuple[Cell, ...]:
    """Make a sentence of a message: what stands between backticks is code, a full stop ends it."""
    plain = text.strip()
    if not plain:
        return ()
    ended = plain if plain.endswith((".", "!", "?", ":")) else f"{plain}."
    # A name such as that of a parameter is spelt as it is.
    first = ended.partition(" ")[0].rstrip(".,:;!?")
    pieces = (ended if _NAME.search(first) else f"{ended[0].upper()}{ended[1:]}").split("`")
    return tuple(Cell(piece, code=bool(place % 2)) for place, piece in enumerate(pieces) if piece)


def text_row(*cells: str | Cell) -> tuple[Cell, ...]:
    """Make a row, taking plain text as it is."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def make_table(caption: str, titles: Iterable[str], rows: Iterable[tuple[Cell, ...]]) -> Table:
    """Make a table; a title that begins with `#` heads a column of figures."""
    columns = tuple(Column(title.removeprefix("#"), title.startswith("#")) for title in titles)
    return Table(caption, columns, tuple(rows))
