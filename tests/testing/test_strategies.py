"""The strategy of prompts: every kind turns up, nothing special slips in, and failing ones become short."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from support.checkpoints import WORDS, make_tokenizer

from sw_audit.testing import prompts

QUIET = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@given(st.data(), st.integers(2, 50), st.integers(1, 5), st.integers(5, 20))
def test_ids_are_of_the_vocabulary_and_lengths_as_asked(
    data: st.DataObject, size: int, shortest: int, longest: int
) -> None:
    drawn = data.draw(prompts(size, shortest=shortest, longest=longest))
    assert shortest <= len(drawn) <= longest
    assert all(0 <= token_id < size for token_id in drawn)


@given(prompts(make_tokenizer()))
def test_special_tokens_of_a_tokenizer_are_left_out(drawn: tuple[int, ...]) -> None:
    assert set(drawn) <= set(range(4, 4 + len(WORDS)))


def test_one_token_over_and_over_turns_up() -> None:
    assert find(prompts(1000), lambda one: len(one) >= 5 and len(set(one)) == 1, settings=QUIET) == (0,) * 5


def test_a_run_of_the_vocabulary_turns_up_as_a_language_would() -> None:
    def is_run(one: tuple[int, ...]) -> bool:
        return len(one) >= 6 and all(after == before + 1 for before, after in pairwise(one))

    assert find(prompts(1000), is_run, settings=QUIET) == tuple(range(6))


def test_a_failing_prompt_shrinks_to_a_short_one_of_small_ids() -> None:
    assert find(prompts(1000), lambda one: any(token_id >= 7 for token_id in one), settings=QUIET) == (7,)


def draw_seeded(seed: int) -> list[tuple[int, ...]]:
    drawn: list[tuple[int, ...]] = []
    few, random = settings(QUIET, max_examples=150), Random(seed)  # noqa: S311
    with pytest.raises(NoSuchExample):
        find(prompts(1000), lambda prompt: bool(drawn.append(prompt)), settings=few, random=random)
    return drawn


def test_a_seed_draws_the_same_prompts_whatever_else_is_imported(tmp_path: Path) -> None:
    before = draw_seeded(5)
    # Hypothesis prefers integers that stand in the source of local modules.
    (tmp_path / "audited.py").write_text(f"NUMBERS = {list(range(200, 900))}\n")
    specification = importlib.util.spec_from_file_location("audited", tmp_path / "audited.py")
    assert specification is not None
    sys.modules["audited"] = importlib.util.module_from_spec(specification)
    try:
        after = draw_seeded(5)
    finally:
        del sys.modules["audited"]
    assert len(before) > 100
    assert after == before
