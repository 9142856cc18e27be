from __future__ import annotations

from support.evidence import NOT_PUBLISHED, make_published, make_record
from support.pages import parse_page
from sw_audit_reports.html import render_html
from sw_audit_reports.tables import list_sources

from sw_audit.index.lookup import find_published
from sw_audit.index.reading import read_published


def test_every_key_that_the_check_names_is_explained() -> None:
    lookup = find_published(read_published(), "huggyllama/llama-7b")
    table = list_sources(lookup)
    assert table is not None
    told = {row[0].text: row[1].text for row in table.rows}
    assert lookup.model is not None
    assert {key for weight in lookup.model.weights for key in weight.sources} <= set(told)
    assert "The Super Weight in Large Language Models" in told["TEX"]
    assert "arXiv 2411.07191v2" in told["TEX"]


def test_where_nothing_is_published_there_is_no_table() -> None:
    assert list_sources(None) is None
    assert list_sources(NOT_PUBLISHED) is None
    assert list_sources(make_published().model_copy(update={"sources": ()})) is None


def test_the_report_shows_the_sources_of_the_models_that_have_some() -> None:
    page = parse_page(render_html(make_record(windows=8, items=8)))
    # The specimen and the broken one are in the made-up index, the control is not.
    assert page.text.count("Who has published coordinates of this model") == 2
