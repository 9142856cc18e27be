"""Multiple-choice items and stop words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import make_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from sw_audit.corpus.choices import ENGLISH_STOP_WORDS, ChoiceItem, list_stop_words, read_choices, stop_word_ids
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.specimen import STOP_WORDS

GOOD: dict[str, Any] = {"context": "the fox", "choices": ["ran", "sang"], "answer": 1}


def test_items_are_read_in_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "answer": 0, "note": "more"}) + "\n")
    items = read_choices(CorpusPolicy(source="any.txt", choices=str(path)))
    assert items == (ChoiceItem("the fox", ("ran", "sang"), 1), ChoiceItem("the fox", ("ran", "sang"), 0))


def test_the_specimens_items_come_with_its_text_and_when_they_are_asked_for() -> None:
    items = read_choices(CorpusPolicy(source="specimen"))
    assert items is not None
    assert {len(item.choices) for item in items} == {4}
    assert {item.answer for item in items} == {0, 1, 2, 3}
    assert read_choices(CorpusPolicy(source="any.txt", choices="specimen")) == items
    assert read_choices(CorpusPolicy(source="any.txt")) is None
    assert read_choices(CorpusPolicy(source="german")) is None
    english = read_choices(CorpusPolicy(source="english"))
    assert english not in (None, items)
    assert english == read_choices(CorpusPolicy()) == read_choices(CorpusPolicy(choices="english"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        (json.dumps({"context": "a", "choices": ["b", "c"]}), "'answer' is missing"),
        (json.dumps({**GOOD, "context": " "}), "'context' is not a text"),
        (json.dumps({**GOOD, "choices": "ran"}), "'choices' is not a list of texts"),
        (json.dumps({**GOOD, "choices": ["ran", 3]}), "'choices' is not a list of texts"),
        (json.dumps({**GOOD, "choices": ["ran"], "answer": 0}), "two or more different texts"),
        (json.dumps({**GOOD, "choices": ["ran", "ran"]}), "two or more different texts"),
        (json.dumps({**GOOD, "answer": 2}), "'answer' is 2, not an index from 0 to 1"),
        (json.dumps({**GOOD, "answer": -1}), "'answer' is -1, not an index"),
        (json.dumps({**GOOD, "answer": True}), "'answer' is True, not an index"),
    ],
)
def test_a_malformed_item_is_one_clear_line_that_names_its_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(CorpusError) as caught:
        read_choices(CorpusPolicy(choices=str(path)))
    assert str(caught.value).startswith(f"choices {str(path)!r}, line 2: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"\n\n", "the file is empty"), (b"caf\xe9", "byte 3 is not UTF-8")],
)
def test_a_file_without_items_is_one_clear_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        read_choices(CorpusPolicy(choices=str(path)))


def test_a_folder_holds_no_items(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="it cannot be read"):
        read_choices(CorpusPolicy(choices=str(tmp_path)))


def test_the_words_are_ones_own_else_the_specimens_else_english() -> None:
    assert list_stop_words(CorpusPolicy(stop_words=("der", "die"))) == ("der", "die")
    assert set(list_stop_words(CorpusPolicy(source="specimen"))) == STOP_WORDS
    assert list_stop_words(CorpusPolicy(source="any.txt")) == ENGLISH_STOP_WORDS
    assert list_stop_words(CorpusPolicy()) == ENGLISH_STOP_WORDS
    assert list_stop_words(CorpusPolicy(source="german")) == ()


def test_the_english_words_are_words_each_once() -> None:
    assert len(ENGLISH_STOP_WORDS) == len(set(ENGLISH_STOP_WORDS)) > 100
    assert all(word.isalpha() and word.islower() for word in ENGLISH_STOP_WORDS)
    assert {"the", "of", "and", "is"} <= set(ENGLISH_STOP_WORDS)


def test_a_word_counts_with_its_capitalized_spelling_and_unknown_words_do_not() -> None:
    tokenizer = make_tokenizer()
    vocabulary = tokenizer.get_vocab()
    token_ids = stop_word_ids(("of", "the", "an"), tokenizer)
    assert token_ids.tolist() == sorted([vocabulary["the"], vocabulary["The"], vocabulary["of"]])
    assert token_ids.dtype == torch.int64


def test_a_word_counts_with_and_without_the_space_before_it_and_only_if_it_is_one_token() -> None:
    # Without O this one makes " Of" a lone f, which is not the word. Ġ is how byte-level tokenizers write a space.
    pieces = ["t", "h", "e", "o", "f", "T", "Ġ", "th", "the", "Ġthe"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    inner = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    make: type = PreTrainedTokenizerFast
    assert stop_word_ids(("the", "of"), make(tokenizer_object=inner)).tolist() == [8, 9]


def test_no_words_are_no_tokens() -> None:
    assert stop_word_ids((), make_tokenizer()).tolist() == []
    assert stop_word_ids(("unheard",), make_tokenizer()).tolist() == []
