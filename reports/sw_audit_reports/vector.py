"""From a Vega-Lite chart to an SVG element that can stand in a page: no links, no styles, its own ids."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import vl_convert

from sw_audit.printable import printable

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FURNITURE = ("axis", "legend", "title")
# What Vega writes for itself, and what only makes sense in a drawing that is a document of its own.
_DROPPED = ("aria-", "role", "class", "style", "pointer-events", "version", "{http://www.w3.org/1999/xlink}")


def draw_vector(spec: dict[str, object], *, id: str, title: str, description: str) -> str:  # noqa: A002
    """Draw a Vega-Lite chart as one inline SVG element.

    The element is an image to assistive software, named by its title and description. Marks keep the
    tooltips that Vega wrote for them as labels.

    Args:
        spec: The chart, as `altair.Chart.to_dict()` gives it.
        id: Prefix of every id in the element, unique on the page.
        title: What the chart shows.
        description: What one sees in it.
    """
    # A control character in a label would end the whole process in the library.
    drawn = vl_convert.vegalite_to_svg(_make_printable(spec))
    root = ElementTree.fromstring(drawn)  # noqa: S314 - the text was drawn here, a line above
    _clean_(root)
    _prefix_ids_(root, id)
    for place, (tag, kind, words) in enumerate([("title", "title", title), ("desc", "description", description)]):
        root.insert(place, _write_element(tag, words, id=f"{id}-{kind}"))
    root.attrib.update({"role": "img", "aria-labelledby": f"{id}-title", "aria-describedby": f"{id}-description"})
    return ElementTree.tostring(root, encoding="unicode")


def _make_printable(part: Any) -> Any:
    if isinstance(part, str):
        return printable(part)
    if isinstance(part, dict):
        return {key: _make_printable(value) for key, value in part.items()}
    return [_make_printable(value) for value in part] if isinstance(part, list | tuple) else part


def _clean_(element: ElementTree.Element) -> None:
    # Namespaces, labels and empty groups are dropped; a mark's label becomes its tooltip.
    element.tag = element.tag.removeprefix(_SVG)
    label = None if element.get("aria-roledescription") in _FURNITURE else element.get("aria-label")
    kept = {key: _round(value) for key, value in element.attrib.items() if not key.startswith(_DROPPED)}
    element.attrib.clear()
    element.attrib.update(kept)
    before = None
    for child in list(element):
        _clean_(child)
        if _is_empty(child) or (before is not None and _is_joined(before, child)):
            element.remove(child)
        else:
            before = child
    if label:
        element.insert(0, _write_element("title", label))


def _write_element(tag: str, words: str, **attributes: str) -> ElementTree.Element:
    element = ElementTree.Element(tag, attributes)
    element.text = printable(words)
    return element


def _is_empty(element: ElementTree.Element) -> bool:
    invisible = element.get("display") == "none"
    return invisible or (element.tag == "g" and len(element) == 0) or element.get("d") in ("", "M0,0h0v0h0Z")


def _is_joined(before: ElementTree.Element, path: ElementTree.Element) -> bool:
    """Make two paths one where they differ in nothing but where they are: a heat map has thousands."""
    alike = {**before.attrib, "d": ""} == {**path.attrib, "d": ""} and before.tag == path.tag == "path"
    if not alike or len(before) or len(path) or "fill" not in path.attrib:
        return False
    before.set("d", before.attrib["d"] + path.attrib["d"])
    return True


def _round(value: str) -> str:
    return _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value)


def _prefix_ids_(root: ElementTree.Element, prefix: str) -> None:
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{prefix}-{value}")
            elif (reference := re.fullmatch(r"url\(#(.+)\)", value)) and reference[1] in ids:
                element.set(key, f"url(#{prefix}-{reference[1]})")
