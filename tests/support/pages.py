"""Reads an HTML page the way a careful reader would: elements, nesting, ids, references."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
# SVG elements may close themselves; HTML elements may not.
DRAWN = {"svg", "g", "path", "line", "rect", "circle", "text", "use", "symbol", "title", "desc"}


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    ancestors: tuple[str, ...]
    text: str = ""


@dataclass
class ParsedPage:
    """The elements of a page in document order, and what was wrong with their nesting."""

    elements: list[Element] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    doctype: str = ""

    def find(self, tag: str) -> list[Element]:
        """Return all elements of a tag."""
        return [element for element in self.elements if element.tag == tag]

    def get(self, anchor: str) -> Element:
        """Return the element of that id."""
        return next(element for element in self.elements if element.attributes.get("id") == anchor)

    @property
    def text(self) -> str:
        """What a reader sees, script and style left out."""
        return " ".join(one.text for one in self.elements if one.tag not in ("script", "style"))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = ParsedPage()
        self.open: list[Element] = []

    def handle_decl(self, decl: str) -> None:
        self.page.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.page.mistakes.append(f"<{tag}> has an attribute twice")
        element = Element(tag, {name: value or "" for name, value in attrs}, tuple(one.tag for one in self.open))
        self.page.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in VOID:
            return
        if tag not in DRAWN:
            self.page.mistakes.append(f"<{tag}/> closes itself")
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1].tag != tag:
            inside = self.open[-1].tag if self.open else "nothing"
            self.page.mistakes.append(f"</{tag}> inside <{inside}>")
            return
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].text += data


def parse_page(html: str) -> ParsedPage:
    """Parse a page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.mistakes += [f"<{element.tag}> is never closed" for element in reader.open]
    return reader.page
