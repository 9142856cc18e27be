from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.baselines import hold
from support.descent_pages import make_descent_record
from support.evidence import compose as compose_record
from support.evidence import (
    judge_model,
    make_evidence,
    make_failing_evidence,
    make_none_evidence,
    make_policy,
    make_record,
)
from support.many import make_many
from support.pages import ParsedPage, parse_page
from support.sections import render_example
from sw_audit_reports import html as html_page
from sw_audit_reports.elements import Element, make_paragraph, make_table, text
from sw_audit_reports.html import render_html
from sw_audit_reports.sections import SECTIONS, Context, section

from sw_audit.checks.registry import find_checks
from sw_audit.errors import InputError, RecordError
from sw_audit.evidence.merge import Given, merge_records
from sw_audit.fact import Fact
from sw_audit.printable import printable_lines
from sw_audit.record.arm import PRUNED, Arm, Custom
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.rendering import render_record
from sw_audit.record.store import EMBEDDED_ID, decode_record, read_record, write_text
from sw_audit.record.verdict import Status, Verdict

HOSTILE = "</script></style><script>alert(1)</script><img src=http://evil.test/x onerror=alert(1)>\"'<!--"

SORTING = resources.files("sw_audit_reports").joinpath("sort.js").read_text(encoding="utf-8")

UNSEEN = "a\x1b[31m\a\x9b2J\u202e\u2066\u200b\u2028\n\tz"
"""What drives a terminal, turns text around, or is not seen at all."""


def compose(*evidence: ModelResult) -> Record:
    policy = make_policy(*(one.model.id for one in evidence))
    return compose_record(*(judge_model(result, policy) for result in evidence), policy=policy)


def make_hostile(hostile: str = HOSTILE) -> Record:
    """Put a text wherever a record holds one that came from outside."""
    evidence = make_evidence(windows=8)
    identity = evidence.model.model_copy(update={"id": hostile, "source": hostile, "revision": hostile})
    location = evidence.location.model_copy(update={"prompt": hostile, "because": hostile})
    odd = evidence.measurements[-1].model_copy(update={"arm": Arm(purpose=Custom(label=hostile))})
    verdicts = (
        Verdict(check="prune-collapses", model=hostile, status=Status.FAIL, because=hostile, remedy=hostile),
        Verdict(check=hostile, model=hostile, status=Status.PASS, because="`", coordinates=(hostile,)),
    )
    changes = {"model": identity, "location": location, "notes": (hostile,)}
    measurements = tuple(one.model_copy(update={"model": hostile}) for one in (*evidence.measurements, odd))
    result = evidence.model_copy(update={**changes, "measurements": measurements, "verdicts": verdicts})
    failure = ModelFailure(model="gone", message=hostile)
    policy = make_record(windows=8, items=8).policy
    return compose_record(result, failure, created=hostile, policy=policy)


def make_bare() -> Record:
    """A record of a model of which nothing was measured and nothing judged."""
    unmeasured = {"measurements": (), "decoder_weights": 0, "critical": None}
    evidence = make_none_evidence(windows=8).model_copy(update=unmeasured)
    bare = evidence.location.model_copy(update={"trace": (), "candidates": ()})
    return compose_record(evidence.model_copy(update={"location": bare}), policy=make_policy(evidence.id))


RECORDS = {
    "several": make_record,
    "one": lambda: compose(make_evidence(windows=8)),
    "not-finite": lambda: compose(make_evidence(windows=8, ratios={PRUNED.name: None}), make_failing_evidence()),
    "distributed": lambda: compose(make_evidence(windows=8, outcome=Outcome.DISTRIBUTED)),
    "bare": make_bare,
    "hostile": make_hostile,
    "unseen": lambda: make_hostile(UNSEEN),
    "many": make_many,
    "many-hostile": lambda: make_many(HOSTILE),
    "many-unseen": lambda: make_many(UNSEEN),
    "merged": lambda: merge_records(
        [Given(make_hostile(), "a"), Given(compose(make_evidence("b", windows=6)), "b")]
    ),
    "empty": lambda: make_record(windows=8, items=8).model_copy(update={"models": ()}),
}


@cache
def render(name: str) -> tuple[Record, str, ParsedPage]:
    record = RECORDS[name]()
    if name == "several":
        return record, *render_example()
    html = render_html(record)
    return record, html, parse_page(html)


each = pytest.mark.parametrize("name", RECORDS)


@each
def test_the_page_is_well_formed(name: str) -> None:
    page = render(name)[2]
    assert page.doctype == "doctype html"
    assert page.mistakes == []
    assert page.find("html")[0].attributes["lang"] == "en"
    assert len(page.find("main")) == len(page.find("h1")) == len(page.find("title")) - count_drawn(page) == 1


def count_drawn(page: ParsedPage) -> int:
    return sum("svg" in element.ancestors for element in page.find("title"))


@each
def test_ids_are_unique_and_every_link_within_the_page_leads_somewhere(name: str) -> None:
    page = render(name)[2]
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in page.elements:
        targets = [value[1:] for key, value in element.attributes.items() if key == "href" and value[0] == "#"]
        targets += element.attributes.get("aria-labelledby", "").split()
        targets += element.attributes.get("aria-describedby", "").split()
        targets += re.findall(r"url\(#(.+?)\)", " ".join(element.attributes.values()))
        assert set(targets) <= set(ids)


@each
def test_nothing_on_the_page_is_unseen(name: str) -> None:
    html = render(name)[1]
    assert printable_lines(html) == html
    if name == "unseen":
        assert r"a\x1b[31m\x07\x9b2J\u202e\u2066\u200b\u2028" in html


@each
def test_headings_go_down_one_level_at_a_time(name: str) -> None:
    page = render(name)[2]
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@each
def test_nothing_is_loaded_from_outside_and_nothing_runs(name: str) -> None:
    html, page = render(name)[1:]
    for element in page.elements:
        assert element.tag not in {"iframe", "object", "embed", "base", "form", "audio", "video", "img"}
        for key, value in element.attributes.items():
            assert key not in {"style", "src", "srcset", "xmlns"}
            assert not key.startswith("on")
            assert key not in {"href", "xlink:href"} or value.startswith("#") or value == "data:,"
    *sorting, script = page.find("script")
    assert script.attributes == {"type": "application/json", "id": EMBEDDED_ID}
    assert [one.text for one in sorting] == ([SORTING] if name.startswith("many") else [])
    [style] = page.find("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert "http" not in html.replace("http-equiv", "").replace("http://evil", "")


@each
def test_the_page_carries_a_policy_that_allows_its_own_style_and_sorting_and_nothing_else(name: str) -> None:
    page = render(name)[2]
    digest = base64.b64encode(hashlib.sha256(page.find("style")[0].text.encode()).digest()).decode()
    [policy] = [one.attributes["content"] for one in page.find("meta") if "http-equiv" in one.attributes]
    allowed = ["default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:"]
    if name.startswith("many"):
        script = base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode()
        allowed.insert(2, f"script-src 'sha256-{script}'")
    assert policy.split("; ")[: len(allowed)] == allowed


@each
def test_the_record_inside_decodes_to_the_same_record(name: str) -> None:
    record, html, page = render(name)
    *others, script = page.find("script")
    assert decode_record(script.text) == record
    assert "<" not in script.text
    assert json.loads(script.text)["schema"] == 4
    assert html.count("</script>") == 1 + len(others)


def test_text_from_outside_is_shown_and_never_obeyed() -> None:
    html, page = render("hostile")[1:]
    assert "<script>alert" not in html
    assert "<img" not in html
    assert HOSTILE in page.text
    assert {element.tag for element in page.elements if "svg" in element.ancestors} <= {
        "g", "path", "line", "rect", "text", "title", "desc", "symbol", "circle", "use",
    }  # fmt: skip


_PIECES = (
    *("</script>", "<script>alert(1)</script>", "</style>", "</title>", "</svg>", "<!--", "-->", "]]>"),
    *("<![CDATA[", "<img src=http://evil.test/x onerror=alert(1)>", '" onload="alert(1)', "' autofocus '"),
    *("&lt;", "&#0;", "{{ 7 }}", "{% raw %}", "`", "[", ".", "javascript:", "\ufffe", "\r", "\n"),
    *("\x1b[2J", "\x00", "\x9b", "\u202e", "\u2028"),
)


def spoil(value: Any, text: str) -> Any:
    """Put a text before every text of a fact that may be any."""
    if isinstance(value, tuple):
        return tuple(spoil(one, text) for one in value)
    if isinstance(value, dict):
        return {key: spoil(one, text) for key, one in value.items()}
    if isinstance(value, str) and not isinstance(value, Enum):
        return f"{text}{value}"
    if not isinstance(value, Fact):
        return value
    kept = dict(value)
    for name, one in list(kept.items()):
        with suppress(ValidationError, InputError):
            kept[name] = getattr(type(value).model_validate({**kept, name: spoil(one, text)}), name)
    return type(value).model_validate(kept)


@cache
def make_rich() -> Record:
    """Return the record of a broken descendant that is also held against a baseline, and of one not audited."""
    record = make_descent_record()
    held = hold().baseline
    assert held is not None
    held = held.model_copy(update={"earlier": held.remember()})
    result = record.results[1].model_copy(update={"baseline": held})
    return record.model_copy(update={"models": (result, ModelFailure(model="gone", message="no such folder"))})


def shape(page: ParsedPage) -> set[tuple[str, str]]:
    """Return every tag with every attribute that it has somewhere."""
    return {(one.tag, name) for one in page.elements for name in (*one.attributes, "")}


@cache
def shape_rich() -> set[tuple[str, str]]:
    return shape(parse_page(render_html(make_rich())))


@pytest.mark.slow
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join))
@example("".join(_PIECES))
def test_no_text_in_any_field_of_a_record_breaks_out_of_the_page(text: str) -> None:
    record = spoil(make_rich(), text)
    html = render_html(record)
    page = parse_page(html)
    assert page.mistakes == []
    # Brackets, dots and backticks in a text may part a name, and no more.
    parting = {("wbr", ""), ("span", ""), ("span", "class"), ("code", "")}
    assert shape(page) <= shape_rich() | parting
    assert [one.attributes["id"] for one in page.find("script")] == [EMBEDDED_ID]
    assert all(one.attributes[key][:1] == "#" for one in page.find("a") for key in one.attributes if key == "href")
    assert printable_lines(html) == html
    assert decode_record(page.find("script")[0].text) == record


def test_nearly_every_text_of_a_record_is_spoilt() -> None:
    record = make_rich()
    spoilt = json.loads(spoil(record, "#!").model_dump_json())
    texts = list(list_texts(json.loads(record.model_dump_json())))
    assert sum(one.startswith("#!") for one in list_texts(spoilt)) > len(texts) / 2


def list_texts(part: Any) -> Iterator[str]:
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from list_texts(one)
    elif isinstance(part, str):
        yield part


@each
def test_every_chart_is_an_image_with_a_name_and_a_description(name: str) -> None:
    page = render(name)[2]
    drawings = [one for one in page.find("svg") if one.attributes.get("role") == "img"]
    others = [one for one in page.find("svg") if one.attributes.get("role") != "img"]
    assert all(one.attributes["aria-hidden"] == "true" for one in others)
    for drawing in drawings:
        assert page.get(drawing.attributes["aria-labelledby"]).text
        assert page.get(drawing.attributes["aria-describedby"]).text
        assert "viewbox" in drawing.attributes
    figures = [one for one in page.find("svg") if "figure" in one.ancestors]
    assert len(drawings) == sum("table" not in one.ancestors for one in figures)


@each
def test_every_table_has_a_caption_and_heads_with_a_scope(name: str) -> None:
    page = render(name)[2]
    assert len(page.find("caption")) == len(page.find("table"))
    assert {one.attributes.get("scope") for one in page.find("th")} <= {"row", "col"}
    scrolling = [one for one in page.elements if one.attributes.get("class") == "scroll"]
    assert all(one.attributes["tabindex"] == "0" and one.attributes["aria-label"] for one in scrolling)


def test_every_check_of_every_model_appears_with_its_verdict_reason_and_command() -> None:
    record, _, page = render("several")
    text = " ".join(page.text.split())
    checks = [check for check in find_checks().values() if check.is_about("model")]
    for place, result in enumerate(record.results, start=1):
        for check in checks:
            assert page.get(f"model-{place}-{check.id}").text == check.title
        asked = record.policy.find_model(result.id)
        expected = f" --expect {asked.expect}" if asked.expect else ""
        for verdict in result.verdicts:
            command = f"sw-audit audit {result.model.source} --check {verdict.check} --strict{expected}"
            assert any(one.text == command for one in page.find("code"))
            assert verdict.because.split("`")[0][1:30] in text
    for check in checks:
        assert check.meaning in text


def test_the_banner_tells_the_worst_verdict_by_word_and_the_models_are_told_apart() -> None:
    html, page = render("several")[1:]
    verdicts = re.findall(r'<p class="verdict">.*?</svg> (\w+)</span>', html, flags=re.DOTALL)
    assert verdicts == ["Fail", "Pass", "Fail", "Pass"]
    assert page.find("title")[0].text.startswith("Fail: Audit of 4 models")
    assert page.get("failures").text == "Not audited"
    assert "model models/gone: there is no such folder" in page.text.lower()


def test_a_figure_that_is_not_finite_is_called_so_and_drawn_at_the_edge() -> None:
    html, page = render("not-finite")[1:]
    assert "leaves no finite perplexity" in page.text
    assert "not finite" in [one.text.strip() for one in page.find("dd")]
    assert "<title>Super weights zeroed: not finite</title>" in html
    assert "A triangle at the edge" in page.text


def test_charts_that_do_not_apply_are_left_out_with_a_sentence() -> None:
    page = render("bare")[2]
    assert [one for one in page.find("svg") if one.attributes.get("role") == "img"] == []
    assert page.text.count("Left out: ") == 3


def test_a_model_without_super_weights_is_drawn_without_what_it_has_not() -> None:
    record = compose(make_none_evidence(windows=8))
    page = parse_page(render_html(record))
    assert "No super weight was found" in page.text
    assert "Super weights zeroed" not in page.text
    skipped = [one for one in record.verdicts if one.status is Status.SKIPPED]
    assert len(skipped) == sum(one.attributes.get("class") == "card skipped" for one in page.find("article"))


def test_the_same_record_gives_the_same_page() -> None:
    record, html, _ = render("one")
    assert render_html(record) == html


def test_a_report_on_disk_is_read_back_as_its_record_by_the_entry_point(tmp_path: Path) -> None:
    record = render("one")[0]
    report = tmp_path / "report.html"
    write_text(report, render_record(record))
    assert read_record(report) == record


def test_of_more_than_eight_models_a_table_comes_first_and_the_worst_alone_are_told_in_full() -> None:
    record, html, page = render("many")
    headings = [one.text for one in page.find("h2")]
    assert headings == [
        "Models by gates", "Drift from parents and baselines", "Each model in short",
        "tuned-2", "tuned-5", "alone", "How this report was made", "Compliance annex",
    ]  # fmt: skip
    assert "Of 10 models, 6 passed, 2 failed, 1 inconclusive and 1 could not be audited." in page.text
    assert "2 models fail <code>super-weight-retained</code>, more than any other gate." in html
    assert page.text.count("Everything about it stands") == 3
    few = record.model_copy(update={"models": record.models[:8]})
    assert parse_page(render_html(few)).find("h2")[0].text == "Models"


def test_a_page_of_many_models_leaves_out_a_record_that_is_too_long_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(html_page, "_LARGEST", 100)
    html = render_html(make_many())
    assert f'id="{EMBEDDED_ID}"' not in html
    assert "too long to be carried inside" in html
    (tmp_path / "report.html").write_text(html)
    with pytest.raises(RecordError, match=r"carries no record; give the record\.json that it was made from"):
        read_record(tmp_path / "report.html")
    assert f'id="{EMBEDDED_ID}"' in render_html(compose(make_evidence(windows=8)))


def test_a_section_that_registers_itself_is_on_the_page_in_its_place_where_it_has_something_to_show() -> None:
    @section("mine", title="A section of my own", order=66)
    def show_mine(context: Context) -> Iterator[Element | None]:
        if context.result.location.super_weights:
            yield make_paragraph(f"look at `{context.result.model.id}`")
            yield make_table(
                "My figures", text("Layer"), [[str(one.layer)] for one in context.result.location.trace]
            )

    try:
        page = parse_page(render_html(compose(make_evidence(windows=8), make_none_evidence(windows=8))))
    finally:
        del SECTIONS["mine"]
    assert page.mistakes == []
    assert page.get("model-1-mine").text == "A section of my own"
    assert page.text.count("My figures") == page.text.count("A section of my own") == 1
    assert page.text.index("What was found in it") < page.text.index("A section of my own")
    assert page.text.index("A section of my own") < page.text.index("What it does")
