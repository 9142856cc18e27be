"""Markdown, read back by a parser of CommonMark with tables."""

from __future__ import annotations

from xml.etree import ElementTree

from markdown_it import MarkdownIt

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def read(markdown: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<page>{PARSER.render(markdown)}</page>")  # noqa: S314 - written by this program


def spell(element: ElementTree.Element) -> str:
    """Return what is read, without the spaces that nobody sees."""
    return " ".join("".join(element.itertext()).replace("\u200b", "").split())
