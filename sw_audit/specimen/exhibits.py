"""The held-out material: the corpus and the multiple-choice items, told from seeds of their own."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sw_audit.specimen.examine import Exam
from sw_audit.specimen.language import ask_choices, list_vocabulary, tell_stories

CORPUS_SEED, CORPUS_STORIES = 20_241, 256
CHOICES_SEED, CHOICES_COUNT = 20_242, 200
# Tokens before the first word in the vocabulary: BOS, EOS and the unknown word.
_SPECIALS = 3


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
    items = (
        json.dumps({"context": one.context, "choices": list(one.choices), "answer": one.answer})
        for one in ask_choices(CHOICES_SEED, CHOICES_COUNT, context - 1)
    )
    (directory / "choices.jsonl").write_text("".join(item + "\n" for item in items), encoding="utf-8")
