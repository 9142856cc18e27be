"""Spoiled files: only the project's own errors come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.soak.fuzz import KINDS, fuzz_kind, list_places, replace_at

COUNTS = {
    "policy": 300,
    "index": 200,
    "record": 200,
    "baseline": 150,
    "config": 200,
    "tokenizer settings": 400,
    "tokenizer": 600,
    "safetensors": 1000,
    "GGUF": 150,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoiled_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    row = fuzz_kind(kind, COUNTS[kind], 15, tmp_path)
    assert row.examples == ()
    assert row.read + row.refused == COUNTS[kind]
    assert row.refused > 0
    assert row.read > 0


def test_a_part_of_a_document_is_replaced_and_the_rest_is_as_it_was() -> None:
    document = {"a": [1, {"b": 2}], "c": 3}
    assert list(list_places(document)) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert replace_at(document, ("a", 1, "b"), None) == {"a": [1, {"b": None}], "c": 3}
    assert replace_at(document, ("a", 0), "(gone)") == {"a": [{"b": 2}], "c": 3}
    assert replace_at(document, ("c", 0), 5) == document == {"a": [1, {"b": 2}], "c": 3}
