"""The badge: its words follow from the verdicts, and it is a whole SVG that loads nothing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from support.evidence import compose, make_record
from support.hostile import hostile_texts, make_hostile
from support.many import make_many
from sw_audit_reports.badge import render_badge, write_badge_line

from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status, Verdict

SVG = "{http://www.w3.org/2000/svg}"


def judge(*statuses: Status) -> Record:
    verdicts = tuple(Verdict(check=f"c{n}", model="m", status=one, because="so") for n, one in enumerate(statuses))
    return compose(ModelFailure(model="m", message="", stopped="it was stopped", verdicts=verdicts))


def read(record: Record) -> ElementTree.Element:
    return ElementTree.fromstring(render_badge(record))  # noqa: S314 - written by this program


@pytest.mark.parametrize(
    ("record", "words", "colour"),
    [
        (compose(make_record().results[0]), "passed", "#2a7d31"),
        (judge(Status.PASS), "failed", "#c02626"),
        (compose(), "inconclusive", "#8a6100"),
        # One of the four fails, and one could not be audited.
        (make_record(), "failed, 2 of 4 models", "#c02626"),
        (make_many(), "failed, 3 of 10 models", "#c02626"),
        (compose(*make_record().results[:1], *make_many().results[:1]), "passed, 2 models", "#2a7d31"),
    ],
)
def test_the_words_and_the_colour_are_those_of_the_verdict(record: Record, words: str, colour: str) -> None:
    badge = read(record)
    assert [part.text for part in badge.iter(f"{SVG}text")] == ["sw-audit", words]
    assert [part.get("fill") for part in badge.iter(f"{SVG}rect") if part.get("fill")] == ["#4c4c4c", colour]
    assert write_badge_line(record) == f"[![sw-audit: {words}](sw-audit.svg)](report.html)"


def test_those_who_hear_the_badge_hear_how_many_gates_ended_how() -> None:
    badge = read(make_record())
    assert badge.get("role") == "img"
    assert badge.get("aria-label") == "sw-audit: failed, 2 of 4 models"
    [title] = badge.iter(f"{SVG}title")
    assert (title.text or "").startswith("sw-audit: failed, 2 of 4 models (")
    assert "passed, " in (title.text or "")


def test_the_badge_loads_nothing_and_its_parts_fill_its_width() -> None:
    badge = read(make_record())
    assert not [name for part in badge.iter() for name in part.attrib if name.endswith("href")]
    boxes = [part for part in badge.iter(f"{SVG}rect") if part.get("fill")]
    assert sum(int(box.get("width", "")) for box in boxes) == int(badge.get("width", ""))
    for box, letters in zip(boxes, badge.iter(f"{SVG}text"), strict=True):
        assert int(box.get("width", "")) - int(letters.get("textLength", "")) == 12
        assert float(letters.get("x", "")) == int(box.get("x", "")) + int(box.get("width", "")) / 2


def test_a_path_in_the_line_of_a_model_card_cannot_end_its_link() -> None:
    line = write_badge_line(make_record(), "a b)[x](y.svg", "https://host/r.html")
    assert line.endswith("](a%20b%29%5Bx%5D%28y.svg)](https://host/r.html)")


@settings(max_examples=30, deadline=None)
@given(hostile_texts())
def test_no_text_of_a_record_is_in_the_badge_or_its_line(text: str) -> None:
    hostile, harmless = make_hostile(text), make_hostile("a")
    assert render_badge(hostile) == render_badge(harmless)
    assert write_badge_line(hostile) == write_badge_line(harmless)
