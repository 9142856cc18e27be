from __future__ import annotations

import torch
from support.checkpoints import make_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from sw_audit.corpus.stopwords import ENGLISH, list_stop_words, stop_word_ids
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.specimen import STOP_WORDS


def test_the_words_are_ones_own_else_the_specimens_else_english() -> None:
    assert list_stop_words(CorpusPolicy(stop_words=("der", "die"))) == ("der", "die")
    assert set(list_stop_words(CorpusPolicy())) == STOP_WORDS
    assert list_stop_words(CorpusPolicy(source="any.txt")) == ENGLISH


def test_the_english_words_are_words_each_once() -> None:
    assert len(ENGLISH) == len(set(ENGLISH)) > 100
    assert all(word.isalpha() and word.islower() for word in ENGLISH)
    assert {"the", "of", "and", "is"} <= set(ENGLISH)


def test_a_word_counts_with_its_capitalized_spelling_and_unknown_words_do_not() -> None:
    tokenizer = make_tokenizer()
    vocabulary = tokenizer.get_vocab()
    found = stop_word_ids(("of", "the", "an"), tokenizer)
    assert found.tolist() == sorted([vocabulary["the"], vocabulary["The"], vocabulary["of"]])
    assert found.dtype == torch.int64


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
