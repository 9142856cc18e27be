"""Stop words, and the tokens that spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from sw_audit.corpus.text import SPECIMEN
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.specimen.language import STOP_WORDS

_ENGLISH = """
a about above after again against all am an and any are as at be because been before being below between both
but by can could did do does doing down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself just me more most my myself no nor not now of off on
once only or other our ours ourselves out over own same she should so some such than that the their theirs
them themselves then there these they this those through to too under until up very was we were what when
where which while who whom why will with would you your yours yourself yourselves
"""
ENGLISH: tuple[str, ...] = tuple(_ENGLISH.split())
"""The common English stop words: articles, pronouns, prepositions, conjunctions, auxiliaries and their like."""


def list_stop_words(corpus: CorpusPolicy) -> tuple[str, ...]:
    """List the words that count as stop words.

    Args:
        corpus: Its own words, if it names some; else the specimen's with the specimen's text; else English.
    """
    if corpus.stop_words is not None:
        return corpus.stop_words
    if corpus.source == SPECIMEN:
        return tuple(sorted(STOP_WORDS))
    return ENGLISH


def stop_word_ids(words: Iterable[str], tokenizer: Any) -> torch.Tensor:
    """Find the tokens that spell a stop word by themselves.

    A word counts with each spelling that is one token: as it is, after a space, and capitalized. A word that
    takes several tokens does not count, for its first token may begin other words as well.

    Args:
        words: The words.
        tokenizer: The model's tokenizer.

    Returns:
        int64 [tokens], ascending, each once; empty if no word is a token.
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
