"""Spoiled files: only the project's own errors come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.soak.fuzz import KINDS, fuzz_kind

COUNTS = {"policy": 600, "index": 400, "record": 600, "config": 500, "tokenizer": 300, "safetensors": 800}


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoiled_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    row = fuzz_kind(kind, COUNTS[kind], 15, tmp_path)
    assert row.examples == ()
    assert row.read + row.refused == COUNTS[kind]
    assert row.refused > 0
