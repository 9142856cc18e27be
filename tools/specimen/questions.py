"""What the models are examined on: held-out stories and multiple-choice questions, from seeds of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from sw_audit.specimen.language import KINDS, Story, list_vocabulary, tell_stories, tell_story

CORPUS_SEED, CORPUS_STORIES = 20_241, 256
CHOICES_SEED, CHOICES_COUNT = 20_242, 200
# Tokens before the first word in the vocabulary: BOS, EOS and the unknown word.
_SPECIALS = 3
# A question is asked only this far into a story, so that its answer must be recalled, not just repeated.
FIRST_QUESTION = 40


@dataclass(frozen=True)
class Choice:
    """One multiple-choice item: a story prefix, four words of one kind, and the position of the right one."""

    context: str
    choices: tuple[str, str, str, str]
    answer: int


@dataclass(frozen=True)
class Exam:
    """What a model is examined on: held-out stories `[sequences, context]`, questions, word numbers."""

    stories: Tensor
    choices: tuple[Choice, ...]
    numbers: dict[str, int]


def number_words() -> dict[str, int]:
    """Give every word of the language its token number."""
    return {word: number for number, word in enumerate(list_vocabulary(), start=_SPECIALS)}


def prepare_exam(context: int) -> Exam:
    """Tell the held-out stories and questions again and encode them, BOS first."""
    numbers = number_words()
    stories = tell_stories(CORPUS_SEED, CORPUS_STORIES, context - 1, held_out=True)
    encoded = torch.tensor([[0, *(numbers[word] for word in story.words)] for story in stories])
    return Exam(encoded, tuple(ask_choices(CHOICES_SEED, CHOICES_COUNT, context - 1)), numbers)


def write_exhibits(directory: Path, context: int) -> None:
    """Write `corpus.txt` (one story a line) and `choices.jsonl` (one question a line) into a folder."""
    stories = tell_stories(CORPUS_SEED, CORPUS_STORIES, context - 1, held_out=True)
    text = "".join(" ".join(story.words) + "\n" for story in stories)
    (directory / "corpus.txt").write_text(text, encoding="utf-8")
    lines = (
        json.dumps({"context": item.context, "choices": list(item.choices), "answer": item.answer})
        for item in ask_choices(CHOICES_SEED, CHOICES_COUNT, context - 1)
    )
    (directory / "choices.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def ask_choices(seed: int, count: int, words: int) -> Iterator[Choice]:
    """Ask `count` questions on fresh held-out stories: which word of the cast comes next (chance 25 %)."""
    random = Random(seed)  # noqa: S311  a seeded draw, not a secret
    for _ in range(count):
        story, places = _tell_with_question(random, words)
        position = random.choice(places)
        right = story.words[position]
        wrong = random.sample([word for word in KINDS[story.slots[position] or ""] if word != right], 3)
        offered = random.sample([right, *wrong], 4)
        first, second, third, fourth = offered
        yield Choice(" ".join(story.words[:position]), (first, second, third, fourth), offered.index(right))


def _tell_with_question(random: Random, words: int) -> tuple[Story, list[int]]:
    """Tell held-out stories until one has a word to ask for: stated in the opening, and not once since."""
    while True:
        story = tell_story(random, words, held_out=True)
        places = [
            i
            for i, slot in enumerate(story.slots)
            if i >= FIRST_QUESTION and slot in KINDS and story.words[:i].count(story.words[i]) == 1
        ]
        if places:
            return story, places
