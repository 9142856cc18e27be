"""What is kept is shown, and goes when it is asked to."""

from __future__ import annotations

import json

import pytest
from support.program import Program

from sw_audit.record.measurement import Look
from sw_audit.runner.cache import Cache


@pytest.fixture
def filled(program: Program) -> Program:
    """A program in a folder whose cache holds an entry of each of two kinds, of one model."""
    cache = Cache(program.folder / ".sw-audit/cache")
    cache.keep("result", {"asked": {"source": "models/llama"}, "content": ["a"]}, Look(windows=1))
    cache.keep("arm", {"model": {"content": ["a"]}}, Look(windows=1))
    return program


def test_entries_are_shown_by_kind_and_by_model(filled: Program) -> None:
    ending = filled.run("cache")
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.startswith(".sw-audit/cache: 2 entries, 0.0 MB\n")
    rows = [line.split() for line in ending.out.splitlines()]
    for name, count in (("arm", "1"), ("result", "1"), ("models/llama", "2")):
        assert [name, count] in [row[:2] for row in rows]
    shown = json.loads(filled.run("cache", "--json").out)
    assert (shown["kinds"]["arm"]["entries"], shown["models"]["models/llama"]["entries"]) == (1, 2)


def test_what_is_asked_to_go_goes_and_what_is_only_tried_stays(filled: Program) -> None:
    assert filled.run("cache", "--older-than=1h").out == "removed 0 entries, 0.0 MB of 2 entries, 0.0 MB\n"
    tried = filled.run("cache", "--clear", "--dry-run")
    assert tried.out == "would remove 2 entries, 0.0 MB of 2 entries, 0.0 MB\n"
    assert filled.run("cache").out.startswith(".sw-audit/cache: 2 entries")
    assert filled.run("cache", "--clear").out == "removed 2 entries, 0.0 MB of 2 entries, 0.0 MB\n"
    assert filled.run("cache").out == ".sw-audit/cache: 0 entries, 0.0 MB\n"


@pytest.mark.parametrize("asked", [["--older-than=soon"], ["--larger-than=5"]])
def test_a_limit_that_is_none_is_one_line_and_nothing_goes(filled: Program, asked: list[str]) -> None:
    ending = filled.run("cache", *asked)
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert filled.run("cache").out.startswith(".sw-audit/cache: 2 entries")


def test_an_audit_refuses_a_limit_of_the_cache_that_is_none_before_it_measures(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4", "--cache-age=5")
    assert (ending.code, ending.err.startswith("sw-audit: --cache-age 5: ")) == (2, True)
    assert quick.files() == []
