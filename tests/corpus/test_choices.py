from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sw_audit.corpus.choices import ChoiceItem, read_choices
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy

GOOD: dict[str, Any] = {"context": "the fox", "choices": ["ran", "sang"], "answer": 1}


def test_items_are_read_in_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "answer": 0, "note": "more"}) + "\n")
    items = read_choices(CorpusPolicy(source="any.txt", choices=str(path)))
    assert items == (ChoiceItem("the fox", ("ran", "sang"), 1), ChoiceItem("the fox", ("ran", "sang"), 0))


def test_the_specimens_items_come_with_its_text_and_when_they_are_asked_for() -> None:
    items = read_choices(CorpusPolicy())
    assert items is not None
    assert {len(item.choices) for item in items} == {4}
    assert {item.answer for item in items} == {0, 1, 2, 3}
    assert read_choices(CorpusPolicy(source="any.txt", choices="specimen")) == items
    assert read_choices(CorpusPolicy(source="any.txt")) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        (json.dumps({"context": "a", "choices": ["b", "c"]}), "'answer' is missing"),
        (json.dumps({**GOOD, "context": " "}), "'context' is not a text"),
        (json.dumps({**GOOD, "choices": "ran"}), "'choices' is not a list of texts"),
        (json.dumps({**GOOD, "choices": ["ran", 3]}), "'choices' is not a list of texts"),
        (json.dumps({**GOOD, "choices": ["ran"], "answer": 0}), "two or more different texts"),
        (json.dumps({**GOOD, "choices": ["ran", "ran"]}), "two or more different texts"),
        (json.dumps({**GOOD, "answer": 2}), "'answer' is 2, not an index from 0 to 1"),
        (json.dumps({**GOOD, "answer": -1}), "'answer' is -1, not an index"),
        (json.dumps({**GOOD, "answer": True}), "'answer' is True, not an index"),
    ],
)
def test_a_malformed_item_is_one_clear_line_that_names_its_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(CorpusError) as caught:
        read_choices(CorpusPolicy(choices=str(path)))
    assert str(caught.value).startswith(f"choices {str(path)!r}, line 2: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"\n\n", "the file is empty"), (b"caf\xe9", "byte 3 is not UTF-8")],
)
def test_a_file_without_items_is_one_clear_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        read_choices(CorpusPolicy(choices=str(path)))


def test_a_folder_holds_no_items(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="it cannot be read"):
        read_choices(CorpusPolicy(choices=str(tmp_path)))
