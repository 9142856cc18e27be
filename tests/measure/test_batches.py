"""Items and windows become batches of one length, and nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CorpusError
from sw_audit.measure.readers import LOGITS_AT_ONCE, batch_choices, batch_windows, sequences_at_once


class Letters:
    """A tokenizer that gives every letter its number and knows no spaces."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens is False
        return [ord(letter) - 96 for letter in text if letter != " "]


class Merging(Letters):
    """A tokenizer that writes 'a b' as one token, so a choice can swallow the end of its context."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return super().encode(text.replace("a b", "z"), add_special_tokens=add_special_tokens)


def test_one_token_choices_share_one_sequence_and_long_ones_do_not() -> None:
    short = ChoiceItem(context="ab", choices=("c", "d", "e", "f"), answer=1)
    long = ChoiceItem(context="ab", choices=("cd", "ef"), answer=0)
    [first, second] = batch_choices([short, long], Letters(), 0, 30, None)
    assert first.token_ids.tolist() == [[0, 1, 2]]
    assert [(one.item, one.choice, one.positions, one.targets) for one in first.continuations] == [
        (0, choice, (2,), (3 + choice,)) for choice in range(4)
    ]
    assert second.token_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 5]]
    assert [(one.choice, one.sequence, one.positions, one.targets) for one in second.continuations] == [
        (0, 0, (2, 3), (3, 4)),
        (1, 1, (2, 3), (5, 6)),
    ]


@pytest.mark.parametrize(
    ("item", "tokenizer", "message"),
    [
        (ChoiceItem(context="ab", choices=("c", " "), answer=0), Letters(), "does not continue the context"),
        (ChoiceItem(context="a", choices=("b", "c"), answer=0), Merging(), "does not continue the context"),
        (ChoiceItem(context="abcdefgh", choices=("c", "d"), answer=0), Letters(), "it has 10 tokens"),
    ],
)
def test_an_item_that_does_not_suit_the_model_is_one_clear_line(
    item: ChoiceItem, tokenizer: Letters, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        batch_choices([item], tokenizer, 0, 30, 8)


@given(count=st.integers(1, 50), length=st.integers(2, 20), vocabulary=st.integers(2, 10**7))
def test_windows_keep_their_order_and_batches_their_budget(count: int, length: int, vocabulary: int) -> None:
    token_ids = torch.arange(count * length).reshape(count, length)
    batches = batch_windows(Windows(token_ids, torch.ones(count, dtype=torch.long)), vocabulary)
    assert torch.equal(torch.cat([batch.token_ids for batch in batches]), token_ids)
    assert batches[0].first == 0
    for batch in batches:
        assert torch.equal(batch.token_ids[0], token_ids[batch.first])
        assert len(batch.token_ids) == 1 or batch.token_ids.numel() * vocabulary <= LOGITS_AT_ONCE
    assert sequences_at_once(length, 10**9) == 1
