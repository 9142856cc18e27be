"""Items and windows become batches without loss, and the readers' sums are those worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CorpusError
from sw_audit.measure import readers
from sw_audit.measure.readers import (
    LOGITS_AT_ONCE,
    ChoiceBatch,
    ChoiceReader,
    ScoredContinuation,
    WindowBatch,
    WindowReader,
    batch_choices,
    batch_windows,
    sequences_at_once,
)


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([rows]).log()


def make_batch(token_ids: list[list[int]], first_scored: int = 1) -> WindowBatch:
    """Make the batch of all windows, cut as an audit cuts it."""
    windows = Windows(torch.tensor(token_ids), torch.full((len(token_ids),), first_scored))
    [batch] = batch_windows(windows, 3)
    return batch


def read(reader: WindowReader, batch: WindowBatch, arm: int, logits: torch.Tensor, baseline: torch.Tensor) -> None:
    """Read the logits of a whole batch, [windows, tokens, vocabulary]; the same tensor stays the same."""
    [places] = batch.pieces
    picked = logits.flatten(0, 1)[places]
    reader.read(batch, arm, places, picked, picked if logits is baseline else baseline.flatten(0, 1)[places])


def test_nats_agreement_and_stop_words_by_hand() -> None:
    # One window of three tokens: BOS, 0, 1; both tokens after BOS are scored.
    batch = make_batch([[2, 0, 1]])
    baseline = logits_of((0.5, 0.25, 0.25), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6))
    arm = logits_of((0.25, 0.5, 0.25), (0.2, 0.6, 0.2), (0.9, 0.05, 0.05))
    reader = WindowReader(arms=2, windows=1, stop_words=torch.tensor([1]))
    read(reader, batch, 0, baseline, baseline)
    read(reader, batch, 1, arm, baseline)

    assert reader.loss(0).tokens == (2,)
    assert reader.loss(0).nats[0] == pytest.approx(-math.log(0.5) - math.log(0.8), rel=1e-6)
    assert reader.loss(1).nats[0] == pytest.approx(-math.log(0.25) - math.log(0.6), rel=1e-6)
    first = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    second = 0.1 * math.log(0.1 / 0.2) * 2 + 0.8 * math.log(0.8 / 0.6)
    assert reader.agreement(1).divergence[0] == pytest.approx(first + second, rel=1e-5)
    assert reader.agreement(1).same_top == (1,)
    assert reader.agreement(0).top1 == 1.0
    assert reader.agreement(0).mean_divergence == 0.0
    mass = reader.stop_words(1)
    assert mass.mass[0] == pytest.approx(0.5 + 0.6, rel=1e-6)


def test_only_new_tokens_of_an_overlapping_window_are_scored() -> None:
    batch = make_batch([[0, 1, 0]], first_scored=2)
    reader = WindowReader(arms=1, windows=1, stop_words=None)
    logits = logits_of((0.5, 0.5), (0.125, 0.875), (0.5, 0.5))
    read(reader, batch, 0, logits, logits)
    assert reader.loss(0).tokens == (1,)
    assert reader.loss(0).nats[0] == pytest.approx(math.log(8), rel=1e-6)
    assert reader.stop_words(0) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_non_finite_logit_makes_a_window_none_and_never_a_number(broken: float) -> None:
    bad = torch.zeros(1, 2, 2)
    bad[0, 0, 0] = broken
    reader = read_both(torch.zeros(1, 2, 2), bad, stop_words=torch.tensor([0]))
    assert reader.loss(1).nats == (None,)
    assert reader.loss(1).perplexity is None
    assert reader.agreement(1).divergence == (None,)


def read_both(baseline: torch.Tensor, arm: torch.Tensor, **options: Any) -> WindowReader:
    """Read the baseline and an arm on one window of two tokens, 0 and 1, of which the second is scored."""
    batch = make_batch([[0, 1]])
    reader = WindowReader(arms=2, windows=1, **{"stop_words": None, **options})
    for number, logits in enumerate((baseline, arm)):
        read(reader, batch, number, logits, baseline)
    return reader


def test_what_is_not_finite_agrees_with_nothing() -> None:
    # The index of the largest NaN is that of the baseline's largest logit.
    baseline = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    reader = read_both(baseline, torch.full((1, 2, 2), math.nan), keeps_tokens=True)
    assert reader.agreement(1).same_top == (0,)
    assert reader.agreement(1).token_divergence == (None,)
    assert reader.agreement(1).tail is None


def test_the_spread_of_the_divergence_is_over_single_tokens() -> None:
    # 101 tokens of one window; the arm gives token 0 less, by another factor at each.
    batch = make_batch([[0] * 102])
    doubt = torch.linspace(0, 0.5, 101).double()
    baseline = torch.tensor([0.5, 0.5]).log().expand(1, 102, 2)
    arm = torch.stack([0.5 - doubt / 2, 0.5 + doubt / 2], dim=1).log().float()
    arm = torch.cat([arm, baseline[0, :1]])[None]
    reader = WindowReader(arms=2, windows=1, stop_words=None, keeps_tokens=True)
    read(reader, batch, 0, baseline, baseline)
    read(reader, batch, 1, arm, baseline)
    # KL((1/2, 1/2) || (p, 1 - p)) = -log(4 p (1 - p)) / 2 grows with the doubt: the nth token is at n percent.
    expected = [
        -math.log(4 * (0.5 - share / 2) * (0.5 + share / 2)) / 2 for share in doubt[[50, 99, 100]].tolist()
    ]
    spread = reader.agreement(1).tail
    assert spread is not None
    assert len(reader.agreement(1).token_divergence) == 101
    assert [spread.median, spread.p99, spread.maximum] == pytest.approx(expected, rel=1e-4)
    assert reader.agreement(0).token_divergence == ()
    assert WindowReader(arms=2, windows=1, stop_words=None).agreement(1).token_divergence == ()


def test_two_vocabularies_are_compared_on_the_tokens_that_both_have() -> None:
    # Without the third token 0.2 and 0.6 are 1/4 and 3/4.
    arm = logits_of((0.2, 0.6, 0.2), (0.2, 0.6, 0.2))
    reader = read_both(logits_of((0.5, 0.5), (0.5, 0.5)), arm)
    assert reader.loss(1).nats[0] == pytest.approx(-math.log(0.6), rel=1e-6)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert reader.agreement(1).divergence[0] == pytest.approx(expected, rel=1e-5)


@given(seed=st.integers(0, 10**6), cached=st.sampled_from([1, 40, 10**6]))
def test_the_same_token_is_likeliest_where_argmax_says_so_also_where_several_are(seed: int, cached: int) -> None:
    # Logits of few levels: most rows have several largest ones.
    generator = torch.Generator().manual_seed(seed)
    baseline, arm = torch.randint(0, 3, (2, 4, 6, 5), generator=generator).float()
    batch = make_batch([[0] * 6] * 4)
    reader = WindowReader(arms=2, windows=4, stop_words=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(readers, "CACHE_SIZED", cached)
        read(reader, batch, 0, baseline, baseline)
        read(reader, batch, 1, arm, baseline)
    same = (arm.argmax(-1) == baseline.argmax(-1))[:, :-1].sum(-1)
    assert reader.agreement(1).same_top == tuple(same.tolist())
    p, q = arm.double().log_softmax(-1), baseline.double().log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1)[:, :-1].sum(-1)
    assert reader.agreement(1).divergence == pytest.approx(expected.tolist(), abs=1e-6)
    assert reader.loss(1).nats == pytest.approx((-p[:, :-1, 0].sum(-1)).tolist(), rel=1e-6)


def test_an_impossible_token_in_the_baseline_adds_nothing_to_the_divergence() -> None:
    reader = read_both(torch.tensor([[[0.0, -math.inf], [0.0, 0.0]]]), torch.zeros(1, 2, 2))
    assert reader.agreement(1).divergence[0] == pytest.approx(math.log(2), rel=1e-6)


def choice_batch() -> ChoiceBatch:
    # Item 0 has the one-token choices 0 and 1; item 1 the two-token choices (0, 1) and (1, 1).
    return ChoiceBatch(
        token_ids=torch.tensor([[2, 2], [2, 0], [2, 1]]),
        continuations=(
            ScoredContinuation(0, 0, 0, (1,), (0,)),
            ScoredContinuation(0, 1, 0, (1,), (1,)),
            ScoredContinuation(1, 0, 1, (0, 1), (0, 1)),
            ScoredContinuation(1, 1, 2, (0, 1), (1, 1)),
        ),
        pieces=(torch.arange(1, 3), torch.arange(3, 6)),
    )


def read_choices(reader: ChoiceReader, arm: int, logits: torch.Tensor) -> None:
    batch = choice_batch()
    for places in batch.pieces:
        reader.read(batch, arm, places, logits.flatten(0, 1)[places])


def test_choices_are_scored_by_the_sum_over_their_tokens() -> None:
    logits = torch.tensor(
        [
            [[0.5, 0.5], [0.9, 0.1]],
            [[0.8, 0.2], [0.3, 0.7]],  # 0.8 * 0.7 = 0.56
            [[0.8, 0.2], [0.2, 0.8]],  # 0.2 * 0.8 = 0.16, though its last token is likelier
        ]
    ).log()
    reader = ChoiceReader(arms=1, answers=[0, 0], choices=[2, 2])
    read_choices(reader, 0, logits)
    accuracy = reader.accuracy(0)
    assert accuracy.correct == (True, True)
    assert accuracy.chance == 0.5


def test_a_tie_is_no_answer_and_neither_is_nan() -> None:
    reader = ChoiceReader(arms=2, answers=[0, 0], choices=[2, 2])
    read_choices(reader, 0, torch.zeros(3, 2, 2))
    read_choices(reader, 1, torch.full((3, 2, 2), math.nan))
    assert [reader.accuracy(arm).correct for arm in (0, 1)] == [(False, False)] * 2


def test_without_items_there_is_no_accuracy() -> None:
    assert ChoiceReader(arms=1, answers=[], choices=[]).accuracy(0) is None


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
    assert [
        (continuation.item, continuation.choice, continuation.positions, continuation.targets)
        for continuation in first.continuations
    ] == [(0, choice, (2,), (3 + choice,)) for choice in range(4)]
    assert second.token_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 5]]
    # No other place is read: the last of the first, the last two of each of the others.
    assert [batch.pieces[0].tolist() for batch in (first, second)] == [[2], [2, 3, 6, 7]]
    assert [
        (continuation.choice, continuation.sequence, continuation.positions, continuation.targets)
        for continuation in second.continuations
    ] == [
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


def test_a_wide_model_is_asked_fewer_choices_at_once() -> None:
    items = [ChoiceItem(context=letter * 3, choices=("a", "b"), answer=0) for letter in "cdefghij"]
    # 2^22 channels are 8 tokens of 2^19 each, or two sequences of four tokens.
    for width, sizes in ((1, [8]), (1 << 19, [2] * 4), (1 << 30, [1] * 8)):
        batches = batch_choices(items, Letters(), 0, 30, None, width)
        assert [len(batch.token_ids) for batch in batches] == sizes


@given(count=st.integers(1, 50), length=st.integers(2, 20), vocabulary=st.integers(2, 10**7))
def test_windows_keep_their_order_and_batches_their_budget(count: int, length: int, vocabulary: int) -> None:
    token_ids = torch.arange(count * length).reshape(count, length)
    batches = batch_windows(Windows(token_ids, torch.ones(count, dtype=torch.long)), vocabulary)
    assert torch.equal(torch.cat([batch.token_ids for batch in batches]), token_ids)
    assert batches[0].first == 0
    for batch in batches:
        assert torch.equal(batch.token_ids[0], token_ids[batch.first])
        assert len(batch.token_ids) == 1 or batch.token_ids.numel() * vocabulary <= LOGITS_AT_ONCE
        assert all(len(places) == 1 or len(places) * vocabulary <= LOGITS_AT_ONCE for places in batch.pieces)
        # Every token but the first of a window is scored by the logits of the one before it.
        scored = torch.cat(batch.pieces) + 1
        assert sorted({*range(batch.token_ids.numel())} - {*scored.tolist()}) == [
            row * length for row in range(len(batch.token_ids))
        ]
    assert sequences_at_once(length, 10**9) == 1
