from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import compose, make_evidence, make_record
from support.many import make_many
from support.pages import ParsedPage, parse_page
from sw_audit_reports.annex import render_annex
from sw_audit_reports.compliance import build_annex
from sw_audit_reports.html import render_html

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import Policy
from sw_audit.printable import printable_lines
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.rendering import render_record
from sw_audit.record.verdict import Status, Verdict

HOSTILE = (
    "</ul></script><script>alert(1)</script><img src=http://evil.test/x onerror=alert(1)>\"'<!--\x1b[31m\u202e"
)


def plant(text: str) -> Record:
    """A record with a text in every place that the annex writes."""
    waiver = Waiver(check="c", model="*", until="2999-12-31", owner="o", reason="r")
    waiver = waiver.model_copy(update={"owner": text, "reason": text})
    verdicts = (
        Verdict(check=text, model=text, status=Status.FAIL, because=text, quantity=text, waiver=waiver),
        Verdict(check=text, model=text, status=Status.FAIL, because=text, quantity=text),
        Verdict(check=text, model=text, status=Status.SKIPPED, because=text),
    )
    result = make_evidence(windows=4, items=4)
    corpus = result.protocol.corpus.model_copy(update={"name": text, "sha256": text})
    changes = {
        "model": result.model.model_copy(update={"id": text, "digest": text, "family": text, "dtype": text}),
        "protocol": result.protocol.model_copy(update={"corpus": corpus}),
        "verdicts": verdicts,
    }
    environment = make_record().environment.model_copy(update={"platform": text, "packages": {text: text}})
    models = (result.model_copy(update=changes), ModelFailure(model=text, message=text, stopped=text))
    return compose(*models, created=text, environment=environment, policy=Policy())


def list_shape(page: ParsedPage) -> list[tuple[str, str, tuple[str, ...]]]:
    """Elements and attributes of a page; code is left out, which backticks in a text make."""
    return [
        (one.tag, " ".join(one.attributes), one.ancestors)
        for one in page.elements
        if one.tag not in ("code", "wbr") and "code" not in one.ancestors
    ]


@given(st.text(min_size=1) | st.just(HOSTILE))
@settings(max_examples=25, deadline=None)
def test_no_text_of_a_record_breaks_out(text: str) -> None:
    page = parse_page(render_annex(plant(text)))
    assert page.mistakes == []
    usual = parse_page(render_annex(plant("word")))
    assert {one.tag for one in page.elements} <= {one.tag for one in usual.elements}
    assert {shape[:2] for shape in list_shape(page)} <= {shape[:2] for shape in list_shape(usual)}
    if text == HOSTILE:
        assert printable_lines(text) in page.text
        assert "\x1b" not in page.text


@pytest.mark.parametrize("record", [make_record(), make_many(), compose()], ids=["few", "many", "none"])
def test_the_annex_is_one_file_that_loads_nothing(record: Record) -> None:
    text = render_annex(record)
    page = parse_page(text)
    assert page.mistakes == []
    assert page.doctype == "doctype html"
    assert not page.find("script")
    assert not re.search(r"url\(|@import|https?://", text)
    addressed = [one.attributes.get("href", "") for tag in ("a", "link") for one in page.find(tag)]
    assert set(addressed) <= {"#main", "data:,"}
    [policy] = [one.attributes["content"] for one in page.find("meta") if "http-equiv" in one.attributes]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))


def test_no_claim_is_made_and_what_is_not_shown_stands_in_the_same_table() -> None:
    page = parse_page(render_annex(make_record()))
    assert "no claim that it is met" in page.text
    assert not re.search(r"\b(compl(y|ies|iant)|conform\w*|certif\w+|satisf\w+|fulfil\w*)\b", page.text)
    tables = [one for one in page.find("th") if one.attributes.get("scope") == "col"]
    heads = [one.text for one in tables]
    assert heads[:9] == ["Expectation", "Evidence towards it in this record", "Not shown"] * 3


def test_what_is_signed_by_hand_is_named_by_its_digest() -> None:
    record = make_record()
    page = parse_page(render_annex(record))
    assert build_annex(record).digest in [one.text for one in page.find("code")]
    assert [one.text for one in page.find("th") if "tbody" not in one.ancestors][-4:] == [
        "Name",
        "Role",
        "Date",
        "Signature",
    ]


GONE = ModelFailure(model="gone", message="there is no such folder")


@pytest.mark.parametrize("record", [compose(GONE), compose(*[GONE] * 9)], ids=["few", "many"])
def test_the_page_carries_the_annex_once(record: Record) -> None:
    page = parse_page(render_html(record))
    assert page.get("annex").tag == "h2"
    assert [one.text for one in page.find("th")].count("Evidence towards it in this record") == 3
    assert build_annex(record).digest in [one.text for one in page.find("code")]


def test_the_format_is_known_by_its_name() -> None:
    assert render_record(make_record(), "annex") == render_annex(make_record())
