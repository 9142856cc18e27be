"""Any text made safe to show."""

from __future__ import annotations

import json
import unicodedata
from xml.dom import minidom
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.printable import LONGEST, printable, printable_json, printable_lines

ANY = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("ding\a", r"ding\x07"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("c1 \x9b31m", r"c1 \x9b31m"),
        (b"latin-\xe9".decode("utf-8", "surrogateescape"), r"latin-\udce9"),
        ("gpj\u202egnp.exe", r"gpj\u202egnp.exe"),
        ("\u2066iso\u2069\u200e\u200f\u061c", r"\u2066iso\u2069\u200e\u200f\u061c"),
        ("zero\u200bwidth\ufeff\u2060", r"zero\u200bwidth\ufeff\u2060"),
        ("line\u2028para\u2029", r"line\u2028para\u2029"),
        ("a\u200db", r"a\u200db"),
        ("\U000e0041tag", r"\U000e0041tag"),
        ("no character \ufffe", r"no character \ufffe"),
        ("\u3164\u115f", r"\u3164\u115f"),
    ],
)
def test_what_drives_or_deceives_is_seen_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "SmolLM2-135M-Instruct.Q4_1",
        "Grüße, 日本語, Ελλάδα, русский, עברית, العربية, ไทย, हिन्दी",
        "e\u0301 and a\u0308: combining marks",
        "👩\u200d👩\u200d👧 family, 👍🏽 thumb, ❤\ufe0f heart",
        "می\u200cخواهم",  # noqa: RUF001 - letters of Persian
        "wide\u3000space, narrow\u202fspace, no\u00a0break",
        "back\\slash",
        "",
    ],
)
def test_ordinary_text_of_all_scripts_stays(text: str) -> None:
    assert printable(text) == text
    assert printable_lines(text) == text


def test_a_long_text_is_cut_in_the_middle_and_says_so() -> None:
    shown = printable("begin" + "x" * 10_000 + "end")
    assert len(shown) == LONGEST
    assert shown.startswith("beginxxx")
    assert shown.endswith("xxxend")
    assert "10,008 characters in all" in shown
    assert len(printable("\x1b" * 10_000, 60)) == 60
    assert printable("x" * LONGEST) == "x" * LONGEST


def test_a_text_of_lines_keeps_them_and_its_tabs() -> None:
    assert printable_lines("one\n\ttwo\x1b[2J\r\n") == "one\n\ttwo\\x1b[2J\\r\n"


@given(ANY)
def test_whatever_it_is_what_is_shown_is_one_line_and_can_be_written(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(one) for one in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp", "Cn", "Co"})
    minidom.parseString(f"<a>{escape(shown)}</a>".encode())  # noqa: S318 - written one line above
    assert printable(shown) == shown


@given(ANY)
def test_lines_too(text: str) -> None:
    shown = printable_lines(text)
    assert shown.count("\n") == text.count("\n")
    assert {unicodedata.category(one) for one in shown if one not in "\n\t"}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})


@given(st.dictionaries(ANY, ANY | st.lists(ANY)))
def test_json_says_the_same_and_shows_all_of_it(document: dict[str, object]) -> None:
    shown = printable_json(json.dumps(document, ensure_ascii=False, indent=1))
    assert json.loads(shown) == document
    assert printable_lines(shown) == shown
