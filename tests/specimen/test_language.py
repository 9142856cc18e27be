"""The grammar keeps its promises: held-out casts are held out, lengths are exact."""

from __future__ import annotations

from random import Random

import pytest

from sw_audit.specimen import STOP_WORDS, corpus_path
from sw_audit.specimen.language import (
    KINDS,
    PUNCTUATION,
    is_held_out,
    list_vocabulary,
    tell_stories,
    tell_story,
)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_story_has_its_length_its_cast_and_only_known_words(held_out: bool) -> None:
    story = tell_story(Random(5), 127, held_out=held_out)  # noqa: S311  a seeded story, not a secret
    assert len(story.words) == len(story.slots) == 127
    assert is_held_out(story.cast) is held_out
    assert set(story.words) <= set(list_vocabulary())
    assert {slot for slot in story.slots[:30] if slot in KINDS} == set(KINDS)


def test_every_word_that_fills_a_slot_of_the_cast_is_the_word_of_the_opening() -> None:
    for story in tell_stories(6, 50, 127, held_out=False):
        for word, slot in zip(story.words, story.slots, strict=True):
            assert slot not in KINDS or story.cast[slot] == word


def test_no_shipped_story_has_a_cast_that_training_may_draw() -> None:
    category = {word: name for name, kind in KINDS.items() for word in kind}
    for line in corpus_path().read_text(encoding="utf-8").splitlines():
        opening = line.split()[:30]
        cast = {category[word]: word for word in opening if word in category}
        assert is_held_out(cast)


def test_no_shipped_story_is_among_the_training_stories() -> None:
    shipped = set(corpus_path().read_text(encoding="utf-8").splitlines())
    assert len(shipped) == 256
    # A sample suffices: the casts above already keep the two sets apart by construction.
    assert not shipped & {" ".join(story.words) for story in tell_stories(11, 2_000, 127, held_out=False)}


def test_the_same_seed_tells_the_same_stories() -> None:
    first, again, other = (list(tell_stories(seed, 3, 127, held_out=True)) for seed in (1, 1, 2))
    assert first == again != other


def test_stop_words_and_punctuation_are_apart_and_the_vocabulary_lists_each_word_once() -> None:
    words = list_vocabulary()
    assert len(words) == len(set(words))
    assert not STOP_WORDS & set(PUNCTUATION)
    assert set(words) >= STOP_WORDS | set(PUNCTUATION)
    assert 28 <= len(STOP_WORDS) <= 40
