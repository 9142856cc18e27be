"""What lies in a cache, and what goes: the longest unused first, and never what the run used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sw_audit.errors import InputError
from sw_audit.leftovers import name_temporary
from sw_audit.record.measurement import Look
from sw_audit.runner.cache import Cache
from sw_audit.runner.cache_upkeep import (
    choose_entries,
    evict,
    list_entries,
    parse_age,
    parse_size,
    read_sources,
    remove_entries,
)

DAY = 86400.0


def fill(cache: Cache, *ages: float) -> list[int]:
    """Keep an entry for each age in days since its last use, and return how many bytes each takes."""
    for number, age in enumerate(ages):
        before = {entry.path for entry in list_entries(cache.folder)}
        cache.keep("look", {"number": number}, Look(windows=number))
        [path] = {entry.path for entry in list_entries(cache.folder)} - before
        os.utime(path, (time.time() - age * DAY,) * 2)
    return [entry.size for entry in list_entries(cache.folder)]


def left(cache: Cache, count: int) -> list[int]:
    return [number for number in range(count) if cache.find("look", {"number": number}, Look) is not None]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that was opened after everything in it was kept."""
    return Cache(tmp_path / "cache", opened=time.time() + 10)


def test_what_was_not_used_for_long_goes(cache: Cache) -> None:
    fill(cache, 91, 89, 0)
    evict(cache, 1e9, 90 * DAY)
    assert left(cache, 3) == [1, 2]


def test_of_too_much_what_was_not_used_for_longest_goes_first(cache: Cache) -> None:
    sizes = fill(cache, 3, 1, 2)
    evict(cache, sum(sizes[1:]), 90 * DAY)
    assert left(cache, 3) == [1, 2]
    evict(cache, 0, 90 * DAY)
    assert left(cache, 3) == []
    assert [path.name for path in cache.folder.iterdir() if path.is_dir()] == []


def test_what_the_run_used_stays_however_little_may_be_kept(cache: Cache) -> None:
    fill(cache, 100, 100)
    again = Cache(cache.folder)
    assert again.find("look", {"number": 1}, Look) is not None
    again.keep("look", {"number": 2}, Look(windows=2))
    evict(again, 0, DAY)
    assert left(cache, 3) == [1, 2]


def test_the_oldest_go_and_then_what_is_too_much_of_the_rest(cache: Cache) -> None:
    sizes = fill(cache, 9, 8, 1)
    entries = list_entries(cache.folder)
    chosen = choose_entries(entries, time.time(), older_than=8.5 * DAY, larger_than=sizes[-1])
    assert chosen == entries[:2]
    assert choose_entries(entries, time.time()) == []


def test_only_entries_are_ever_taken_away(tmp_path: Path) -> None:
    others = ["notes.json", "ab/notes.json", f"xy/{'ab' * 32}.json", "record.json"]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_entries(tmp_path) == []
    cache = Cache(tmp_path)
    fill(cache, 1)
    remove_entries(tmp_path, list_entries(tmp_path))
    assert all((tmp_path / name).exists() for name in others)


def test_what_a_run_has_not_confirmed_is_told_apart_and_goes_with_its_age(cache: Cache) -> None:
    cache.stage("state").keep("look", {"number": 0}, Look(windows=0))
    [entry] = list_entries(cache.folder)
    assert entry.kind == "staged"
    os.utime(entry.path, (time.time() - 91 * DAY,) * 2)
    evict(cache, 1e9, 90 * DAY)
    assert not (cache.folder / "staged").exists()


def test_temporary_files_of_processes_that_are_gone_are_cleared(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, 0)
    file = list_entries(cache.folder)[0].path.with_name(name_temporary())
    file.touch()
    evict(cache, 1e9, DAY)
    assert file.exists()
    monkeypatch.setattr("sw_audit.leftovers._is_running", lambda _: False)
    evict(cache, 1e9, DAY)
    assert not file.exists()


def test_an_entry_is_about_the_model_that_its_question_or_one_of_the_same_files_names(cache: Cache) -> None:
    parent = {"asked": {"source": "llama"}, "content": ["p"]}
    questions = {
        "result": {"asked": {"source": "llama-w4"}, "content": ["d"], "parent": parent},
        "arm": {"model": {"content": ["d"]}},
        "parent": {"parent": parent},
        "other": {"model": {"content": ["unknown"]}},
    }
    for kind, question in questions.items():
        cache.keep(kind, question, Look(windows=1))
    sources = read_sources(list_entries(cache.folder))
    named = {entry.kind: source for entry, source in sources.items()}
    assert named == {"result": "llama-w4", "arm": "llama-w4", "parent": "llama"}


def test_sizes_and_ages_are_read_with_their_units_and_not_without() -> None:
    assert parse_size("1.5GB", "x") == 1.5e9
    assert parse_size("20 mb", "x") == 2e7
    assert parse_age("30d", "x") == 30 * DAY
    assert parse_age("12h", "x") == DAY / 2
    for parse in (parse_size, parse_age):
        for wrong in ("", "x", "5", "-1d", "-1MB", "1e400GB", "5 lightyears", "nan"):
            with pytest.raises(InputError):
                parse(wrong, "x")
