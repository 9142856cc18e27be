"""The verdict of a record as a badge, and as the line of a model card that shows it."""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from sw_audit.record.record import Record
from sw_audit.record.standing import conclude_model
from sw_audit.record.verdict import Status
from sw_audit_reports.text import count, format_number
from sw_audit_reports.verdicts import conclude_record, name_ending, tally

NAME = "sw-audit"
# White text on each has a contrast of at least 4.5.
_COLOURS = {Status.PASS: "#2a7d31", Status.FAIL: "#c02626", Status.INCONCLUSIVE: "#8a6100"}
_GREY = "#4c4c4c"
_HEIGHT, _MARGIN = 20, 6
_NARROW, _WIDE = "fijlrt.,:1- ", "mw"


def render_badge(record: Record) -> str:
    """Render the verdict as an SVG badge of 20 pixels in height, which loads nothing.

    Its title, for those who hear it, counts gates and laws too.

    Args:
        record: The record of an audit.
    """
    words = _tell(record)
    told = f"{NAME}: {words}"
    counted = ", ".join(badge.word for badge in tally(record.verdicts))
    parts = [(NAME, _GREY), (words, _COLOURS[conclude_record(record)])]
    widths = [_measure(text) + 2 * _MARGIN for text, _ in parts]
    size = {"width": str(sum(widths)), "height": str(_HEIGHT)}
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img", "aria-label": told})
    SubElement(svg, "title").text = f"{told} ({counted})" if counted else told
    clip = SubElement(svg, "clipPath", id="round")
    SubElement(clip, "rect", {**size, "rx": "3"})
    boxes = SubElement(svg, "g", {"clip-path": "url(#round)"})
    font = {"font-family": "Verdana,Geneva,DejaVu Sans,sans-serif", "font-size": "11"}
    letters = SubElement(svg, "g", {"fill": "#fff", "text-anchor": "middle", **font})
    begin = 0
    for (text, colour), width in zip(parts, widths, strict=True):
        SubElement(boxes, "rect", x=str(begin), width=str(width), height=str(_HEIGHT), fill=colour)
        # Whatever font there is, the text fills its part.
        place = {"x": f"{begin + width / 2:g}", "y": "14", "textLength": str(width - 2 * _MARGIN)}
        SubElement(letters, "text", place).text = text
        begin += width
    return f"{tostring(svg, encoding='unicode')}\n"


def write_badge_line(record: Record, image: str = "sw-audit.svg", report: str = "report.html") -> str:
    """Write the line of Markdown that shows the badge in a model card and leads to the report.

    Args:
        record: The record of an audit.
        image: Path or address of the badge, as seen from the model card.
        report: Path or address of the report.
    """
    return f"[![{NAME}: {_tell(record)}]({quote(image, safe='/:')})]({quote(report, safe='/:')})"


def _tell(record: Record) -> str:
    """Say how an audit ended in few words: of several models how many ended so."""
    ended = conclude_record(record)
    if len(record.models) < 2:
        return name_ending(ended)
    alike = Counter(map(conclude_model, record.models))[ended]
    part = "" if alike == len(record.models) else f"{format_number(alike)} of "
    return f"{name_ending(ended)}, {part}{count(len(record.models), 'model')}"


def _measure(text: str) -> int:
    """Estimate the width of a text in Verdana of 11 pixels."""
    return round(sum(4.2 if one in _NARROW else 10.2 if one in _WIDE else 6.9 for one in text))
