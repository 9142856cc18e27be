"""The tables of an HTML page, as rows of cells, the head first."""

from __future__ import annotations

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self._within: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "table":
            self.tables.append([])
            self.captions.append("")
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._within = "cell"
        elif tag == "caption":
            self._within = "caption"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption"):
            self._within = None

    def handle_data(self, data: str) -> None:
        if self._within == "cell":
            self.tables[-1][-1][-1] += data.strip()
        elif self._within == "caption":
            self.captions[-1] += data.strip()


def read_tables(html: str) -> list[tuple[str, list[list[str]]]]:
    """Return every table with its caption before it."""
    reader = _Reader()
    reader.feed(html)
    return list(zip(reader.captions, reader.tables, strict=True))
