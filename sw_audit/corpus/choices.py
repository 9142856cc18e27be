"""What is asked about a text beside its perplexity: multiple-choice items, and tokens that spell stop words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sw_audit.corpus.text import AUTO, ENGLISH, LANGUAGES, SPECIMEN
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.specimen.language import STOP_WORDS
from sw_audit.specimen.shipped import choices_path

ENGLISH_ITEMS = Path(__file__).parent / "data" / "english-choices.jsonl"
_FORM = 'write one object a line, such as {"context": "the fox", "choices": ["ran", "sang"], "answer": 0}'


@dataclass(frozen=True)
class ChoiceItem:
    """One question.

    Attributes:
        context: The text before the gap.
        choices: What may follow, at least two, all different.
        answer: Index of the right one.
    """

    context: str
    choices: tuple[str, ...]
    answer: int


def read_choices(corpus: CorpusPolicy) -> tuple[ChoiceItem, ...] | None:
    """Read the multiple-choice items that a policy asks for.

    The source is a path, `english` or `specimen`; these two texts have items of their own. `None` if none are
    asked for.

    Raises:
        CorpusError: If the file cannot be read, is empty, or a line of it is malformed.
    """
    with_text = {SPECIMEN: SPECIMEN, ENGLISH: ENGLISH, AUTO: ENGLISH}
    source = corpus.choices or with_text.get(corpus.source)
    if source is None:
        return None
    asked = f"choices {source!r}"
    shipped = {SPECIMEN: choices_path(), ENGLISH: ENGLISH_ITEMS}
    return read_items(shipped.get(source) or Path(source).expanduser(), asked)


def read_items(path: Path, asked: str) -> tuple[ChoiceItem, ...]:
    """Read multiple-choice items from a file; `asked` is what it is called where it is wrong.

    Raises:
        CorpusError: If the file cannot be read, is empty, or a line of it is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise CorpusError(asked, "there is no such file", "correct the path in corpus.choices") from error
    except UnicodeDecodeError as error:
        raise CorpusError(asked, f"byte {error.start} is not UTF-8", _FORM) from error
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
        raise CorpusError(asked, problem, "check the file and its permissions") from error
    items = tuple(
        _read_item(line, f"{asked}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    if not items:
        raise CorpusError(asked, "the file is empty", _FORM)
    return items


def _read_item(line: str, asked: str) -> ChoiceItem:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(asked, f"it is not JSON ({error})", _FORM) from error
    problem = _find_fault(item)
    if problem is not None:
        raise CorpusError(asked, problem, _FORM)
    return ChoiceItem(item["context"], tuple(item["choices"]), item["answer"])


def _find_fault(item: Any) -> str | None:
    if not isinstance(item, dict):
        return "it is not a JSON object"
    absent = [key for key in ("context", "choices", "answer") if key not in item]
    if absent:
        return f"{absent[0]!r} is missing"
    if not isinstance(item["context"], str) or not item["context"].strip():
        return "'context' is not a text"
    choices = item["choices"]
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        return "'choices' is not a list of texts"
    if len(choices) < 2 or len(set(choices)) < len(choices):
        return "'choices' does not hold two or more different texts"
    answer = item["answer"]
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        return f"'answer' is {answer!r}, not an index from 0 to {len(choices) - 1}"
    return None


_COMMON = """
a about above after again against all am an and any are as at be because been before being below between both
but by can could did do does doing down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself just me more most my myself no nor not now of off on
once only or other our ours ourselves out over own same she should so some such than that the their theirs
them themselves then there these they this those through to too under until up very was we were what when
where which while who whom why will with would you your yours yourself yourselves
"""
ENGLISH_STOP_WORDS: tuple[str, ...] = tuple(_COMMON.split())
"""The common English stop words: articles, pronouns, prepositions, conjunctions, auxiliaries and their like."""


def list_stop_words(corpus: CorpusPolicy) -> tuple[str, ...]:
    """List the words that count as stop words.

    The policy's own if it names some; the specimen's with the specimen's text; none with a text in another
    language that ships with sw-audit; else English.
    """
    if corpus.stop_words is not None:
        return corpus.stop_words
    if corpus.source == SPECIMEN:
        return tuple(sorted(STOP_WORDS))
    return () if corpus.source in LANGUAGES[1:] else ENGLISH_STOP_WORDS


def stop_word_ids(words: Iterable[str], tokenizer: Any) -> torch.Tensor:
    """Find the tokens that spell a stop word by themselves.

    A word counts with each spelling that is one token: as it is, after a space, and capitalized. A word that takes
    several tokens does not count, for its first token may begin other words as well. Returns int64 [tokens],
    ascending, each once; empty if no word is a token.
    """
    spellings = [
        spelling
        for word in words
        for form in dict.fromkeys((word, word.capitalize()))
        for spelling in (form, f" {form}")
    ]
    ids = set()
    tokenized = tokenizer(spellings, add_special_tokens=False)["input_ids"] if spellings else []
    for spelling, token_ids in zip(spellings, tokenized, strict=True):
        # A tokenizer may drop what it does not know and leave one token of another meaning.
        if len(token_ids) == 1 and tokenizer.decode(token_ids).strip().lower() == spelling.strip().lower():
            ids.add(token_ids[0])
    return torch.tensor(sorted(ids), dtype=torch.int64)
