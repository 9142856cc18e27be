"""Text in Markdown is shown as it is, read back by a parser of CommonMark with tables."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.markdown import read, spell
from sw_audit_reports.elements import Cell
from sw_audit_reports.markdown_text import escape, write_code, write_fence, write_name, write_row, write_words

from sw_audit.printable import printable, printable_lines

PIECES = (
    "`",
    "``",
    "```",
    "|",
    "\\",
    "*",
    "_",
    "[x](y)",
    "<b>",
    "&amp;",
    "~",
    "$",
    "@a",
    "#1",
    "- ",
    "1. ",
    "a",
    "\n",
    " ",
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20)


@given(TEXTS)
@example("    - [x](y) @all")
@example("_a_ __b__ a_b")
def test_a_sentence_is_one_paragraph_that_reads_as_the_text(text: str) -> None:
    page = read(f"{escape(text).strip()}\n")
    assert [part.tag for part in page.iter()] == (["page", "p"] if printable(text).strip() else ["page"])
    assert spell(page) == " ".join(printable(text).split())


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=4))
@example([("a", True), ("b`c", True), ("*d*", False)])
def test_code_stays_code_and_plain_text_plain_wherever_they_meet(parts: list[tuple[str, bool]]) -> None:
    page = read(f"So: {write_words([Cell(text, code=code) for text, code in parts])}\n")
    assert {part.tag for part in page.iter()} <= {"page", "p", "code"}
    assert len(list(page.iter("code"))) == sum(code and bool(text) for text, code in parts)


@given(TEXTS, TEXTS)
def test_a_name_is_one_cell_of_a_table(name: str, text: str) -> None:
    page = read(write_row("ab") + write_row(["-", "-"]) + write_row([write_name(name), escape(text)]) + "\n")
    [_, *rows] = page.iter("tr")
    [row] = rows
    assert [cell.tag for cell in row] == ["td", "td"]
    assert [part.tag for part in row[0]] == ["code"]
    assert list(row[1]) == []
    assert spell(row[1]) == " ".join(printable(text).split())


@given(TEXTS)
def test_no_line_of_a_block_ends_it(text: str) -> None:
    page = read(f"{write_fence(text)}\nafter\n")
    assert [part.tag for part in page] == ["pre", "p"]
    shown = printable_lines(text).strip("\n")
    assert "".join(page[0].itertext()) == (f"{shown}\n" if shown else "\n")


@pytest.mark.parametrize(
    "text",
    [
        "@all",
        "a@b.org",
        "a/b#1",
        "#1",
        "GH-1",
        "!3",
        "$5",
        "http://a.b",
        "www.a.b",
        ":tada:",
        "[issue:1]",
        "%1",
        "~a",
    ],
)
def test_what_is_made_a_link_after_markdown_is_rendered_is_broken_by_a_space_of_no_width(text: str) -> None:
    shown = html.unescape(re.sub(r"\\(.)", r"\1", escape(text)))
    assert shown != text
    assert shown.replace("\u200b", "") == text


def test_ordinary_words_and_names_stay_readable() -> None:
    text = "Its perplexity is 2.7286 times its parent's: model.layers.1.mlp.down_proj, 95 % (see it)."
    assert escape(text) == text
    assert write_name("model.layers.1[5, 7]") == write_code("model.layers.1[5, 7]") == "`model.layers.1[5, 7]`"
    assert write_name("a|b") == "<code>a&#124;b</code>"
