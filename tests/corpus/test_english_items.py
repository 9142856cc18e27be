"""The shipped texts and English items: enough of them, and no item that its choices alone give away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from scipy.stats import binomtest

from sw_audit.corpus.choices import ChoiceItem, read_choices
from sw_audit.policy.policy import CorpusPolicy

DATA = Path(str(files("sw_audit.corpus"))) / "data"
CHOICES = 4


@cache
def _items() -> tuple[ChoiceItem, ...]:
    items = read_choices(CorpusPolicy(source="any.txt", choices=str(DATA / "english-choices.jsonl")))
    assert items is not None
    return items


@cache
def _english() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((DATA / "english").glob("*.txt")))


@cache
def _frequencies() -> Counter[str]:
    return Counter(_words(_english()))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _frequency(choice: str) -> float:
    """Give the probability of a choice by how often its words stand in the project's English, with one added."""
    counts = _frequencies()
    probability = 1.0
    for word in _words(choice):
        probability *= (counts[word] + 1) / (counts.total() + len(counts) + 1)
    return probability


def test_there_are_enough_items_of_four_different_choices() -> None:
    assert len(_items()) >= 240
    assert {len(set(item.choices)) for item in _items()} == {CHOICES}
    assert {len(item.choices) for item in _items()} == {CHOICES}


def test_the_right_choice_stands_equally_often_at_each_place() -> None:
    places = Counter(item.answer for item in _items())
    assert places == dict.fromkeys(range(CHOICES), len(_items()) // CHOICES)


def test_each_four_choices_are_shared_by_four_items_and_each_of_them_is_right_once() -> None:
    groups = defaultdict(list)
    for item in _items():
        groups[frozenset(item.choices)].append(item.choices[item.answer])
    assert all(sorted(group) == sorted(right) for group, right in groups.items())


def test_no_context_stands_twice_and_no_choice_in_two_groups() -> None:
    contexts = {item.context.lower() for item in _items()}
    assert len(contexts) == len(_items())
    choices = Counter(choice.lower() for item in _items() for choice in item.choices)
    assert set(choices.values()) == {CHOICES}


def test_contexts_and_choices_meet_at_one_space() -> None:
    for item in _items():
        assert item.context == " ".join(item.context.split())
        assert item.context[-1].isalpha()
        assert all(choice == " ".join(choice.split()) for choice in item.choices)


def test_an_article_before_the_gap_fits_every_choice() -> None:
    for item in _items():
        if item.context.split()[-1] in ("a", "an"):
            vowel = item.context.endswith(" an")
            assert all((choice[0].lower() in "aeiou") == vowel for choice in item.choices), item


# Ties go by the spelling, never by the place.
@pytest.mark.parametrize(
    "score",
    [
        pytest.param(lambda _, choice: len(choice), id="longest"),
        pytest.param(lambda _, choice: -len(choice), id="shortest"),
        pytest.param(lambda _, choice: _frequency(choice), id="commonest"),
        pytest.param(lambda _, choice: -_frequency(choice), id="rarest"),
        pytest.param(lambda item, choice: _words(item.context).count(choice.lower()), id="said-before"),
    ],
)
def test_a_rule_that_does_not_understand_the_context_scores_at_chance(
    score: Callable[[ChoiceItem, str], float],
) -> None:
    right = 0
    for item in _items():
        given = max(item.choices, key=lambda choice: (score(item, choice), choice))
        right += given == item.choices[item.answer]
    interval = binomtest(right, len(_items())).proportion_ci(method="wilson")
    assert interval.low <= 1 / CHOICES <= interval.high


def test_there_is_enough_english() -> None:
    assert len(_english().split()) >= 20_000


@pytest.mark.parametrize("language", ["german", "french", "spanish"])
def test_there_is_enough_of_each_other_european_language(language: str) -> None:
    assert len((DATA / f"{language}.txt").read_text(encoding="utf-8").split()) >= 1_000


def test_there_is_enough_chinese() -> None:
    text = (DATA / "chinese.txt").read_text(encoding="utf-8")
    assert sum("\u4e00" <= character <= "\u9fff" for character in text) >= 1_600


@pytest.mark.parametrize("language", ["german", "french", "spanish", "chinese"])
def test_a_text_is_paragraphs_of_one_line_with_a_blank_line_between(language: str) -> None:
    text = (DATA / f"{language}.txt").read_text(encoding="utf-8")
    paragraphs = text.removesuffix("\n").split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(paragraph == paragraph.strip() and "\n" not in paragraph for paragraph in paragraphs)


def test_the_data_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 300_000
