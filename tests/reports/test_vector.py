from __future__ import annotations

import re
from xml.etree import ElementTree

import altair
import pytest
from sw_audit_reports.vector import draw_vector


def draw(identity: str, tip: str = "first <b>") -> str:
    rows = [{"x": 1, "y": 2, "tip": tip}, {"x": 3, "y": 5, "tip": "second"}]
    chart = altair.Chart(altair.Data(values=rows)).mark_point(clip=True)
    chart = chart.encode(x="x:Q", y="y:Q", description="tip:N", href=altair.value("http://elsewhere.test/"))
    return draw_vector(chart.to_dict(), id=identity, title="A & B", description="Two points")


def test_a_drawing_is_xml_with_a_name_a_description_and_tooltips() -> None:
    root = ElementTree.fromstring(draw("a"))  # noqa: S314 - drawn by the code under test
    assert (root[0].text, root[1].text) == ("A & B", "Two points")
    assert [one.text for one in root.iter("title")][1:] == ["first <b>", "second"]


def test_ids_are_the_drawings_own_and_references_follow_them() -> None:
    drawing = draw("a")
    ids = re.findall(r'id="([^"]+)"', drawing)
    assert len(ids) > 2
    assert all(one.startswith("a-") for one in ids)
    references = re.findall(r"url\(#([^)]+)\)", drawing)
    assert references
    assert set(references) <= set(ids)
    assert not set(ids) & set(re.findall(r'id="([^"]+)"', draw("b")))


def test_nothing_leads_outside_and_nothing_is_styled_inside() -> None:
    drawing = draw("a")
    assert not re.search(r"xmlns|xlink|http|style=|class=|aria-roledescription", drawing)


@pytest.mark.parametrize("name", ["\x1b[31m", "\a", "\x00", "\ufffe", "\udce9"])
def test_a_name_that_the_library_would_abort_the_process_for_is_drawn_as_an_escape(name: str) -> None:
    root = ElementTree.fromstring(draw("a", f"arm {name}"))  # noqa: S314 - drawn by the code under test
    escaped = name.encode("unicode_escape").decode()
    assert [one.text for one in root.iter("title")][1] == f"arm {escaped}"
