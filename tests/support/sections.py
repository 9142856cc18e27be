"""Builds one section of the report from made-up evidence, and reads what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from support.evidence import compose, make_record
from support.pages import ParsedPage, parse_page
from sw_audit_reports.elements import Block, Cell, Chart, Element, Paragraph, Table, Terms
from sw_audit_reports.html import render_html
from sw_audit_reports.sections import SECTIONS, Context, list_sections

from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict


def make_context(result: ModelResult, verdicts: Sequence[Verdict] = (), policy: Policy | None = None) -> Context:
    """Return what a section is built from; its ids begin with `m`."""
    judged = result.model_copy(update={"verdicts": tuple(verdicts)})
    return Context(compose(judged, policy=policy or Policy()), judged, "m")


def read(cells: Sequence[str | Cell]) -> str:
    """Read a sentence, minus signs as hyphens."""
    return plain("".join(cell.text if isinstance(cell, Cell) else cell for cell in cells))


def plain(text: str) -> str:
    """Write minus signs, and the dash of what there is not, as hyphens."""
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")


def read_rows(table: Table | None) -> list[list[str]]:
    """Read the rows of a table; of a badge, its word."""
    assert table is not None
    return [[cell.badge.word if cell.badge else plain(cell.text) for cell in row] for row in table.rows]


def read_heads(table: Table | None) -> list[str]:
    """Read the heads of a table's columns."""
    assert table is not None
    return [column.title for column in table.columns]


@dataclass
class BuiltSection:
    """The elements of a section, by what they are."""

    elements: list[Element]

    @property
    def text(self) -> str:
        """All its paragraphs."""
        return "\n".join(read(element.cells) for element in self.elements if isinstance(element, Paragraph))

    @property
    def charts(self) -> list[Chart]:
        """Its charts in order."""
        return [element for element in self.elements if isinstance(element, Chart)]

    @property
    def blocks(self) -> list[Block]:
        """What has a layout of its own."""
        return [element for element in self.elements if isinstance(element, Block)]

    @property
    def terms(self) -> dict[str, str]:
        """Its terms, each with what it stands for."""
        listed = [element for element in self.elements if isinstance(element, Terms)]
        return {name: read(cells) for element in listed for name, cells in element.terms}

    def table(self, caption: str) -> Table:
        """Return the one table whose caption begins so."""
        [found] = [one for one in self.elements if isinstance(one, Table) and one.caption.startswith(caption)]
        return found

    def rows(self, caption: str) -> list[list[str]]:
        """Read the rows of the table whose caption begins so."""
        return read_rows(self.table(caption))

    def has_table(self, caption: str) -> bool:
        """Tell whether there is a table whose caption begins so."""
        return any(isinstance(one, Table) and one.caption.startswith(caption) for one in self.elements)


@cache
def render_example() -> tuple[str, ParsedPage]:
    """Render the record of three models and one that could not be opened, once for all tests."""
    html = render_html(make_record())
    return html, parse_page(html)


def build_section(id: str, context: Context) -> BuiltSection:  # noqa: A002
    """Build one section."""
    list_sections()
    return BuiltSection([element for element in SECTIONS[id].build(context) if element is not None])


def summarize(id: str, context: Context) -> str:  # noqa: A002
    """Read the sentence that a section gives the banner."""
    list_sections()
    write = SECTIONS[id].summarize
    assert write is not None
    return read(write(context))
