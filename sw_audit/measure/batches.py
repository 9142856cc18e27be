"""Cuts windows and multiple-choice items into batches of sequences of one length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CorpusError

LOGITS_AT_ONCE = 1 << 25
"""Logits held per arm and batch: 2^25 in float32 are 128 MiB, small beside a layer of a large model."""


@dataclass(frozen=True)
class WindowBatch:
    """Some windows of the corpus.

    Attributes:
        first: Index of the first window.
        token_ids: int64 [windows, tokens].
        first_scored: int64 [windows].
    """

    first: int
    token_ids: Tensor
    first_scored: Tensor


@dataclass(frozen=True)
class ScoredContinuation:
    """One choice of one item inside a batch.

    Attributes:
        item: Index of the item.
        choice: Index of the choice.
        sequence: Which sequence of the batch.
        positions: Positions whose next token is scored.
        targets: The tokens expected there.
    """

    item: int
    choice: int
    sequence: int
    positions: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceBatch:
    """Choices that end at one length.

    Attributes:
        token_ids: int64 [sequences, tokens].
        continuations: What is scored.
    """

    token_ids: Tensor
    continuations: tuple[ScoredContinuation, ...]


def batch_windows(windows: Windows, vocabulary: int) -> list[WindowBatch]:
    """Cut windows into batches whose logits fit the budget; order is kept."""
    count, length = windows.token_ids.shape
    size = sequences_at_once(length, vocabulary)
    return [
        WindowBatch(first, windows.token_ids[first : first + size], windows.first_scored[first : first + size])
        for first in range(0, count, size)
    ]


def batch_choices(
    items: Sequence[ChoiceItem], tokenizer: Any, bos: int | None, vocabulary: int, maximum: int | None
) -> list[ChoiceBatch]:
    """Cut multiple-choice items into batches of one length, without padding.

    A choice is scored by the log-likelihood of its tokens after the context. Choices that share all but their
    last token share one sequence, so an item with one-token choices is run once.

    Raises:
        CorpusError: If an item is longer than the model allows, or a choice adds no token.
    """
    shared: dict[tuple[int, ...], list[tuple[int, int, int, tuple[int, ...]]]] = defaultdict(list)
    for number, item in enumerate(items):
        context = ([] if bos is None else [bos]) + _encode(tokenizer, item.context)
        for index, choice in enumerate(item.choices):
            whole = ([] if bos is None else [bos]) + _encode(tokenizer, f"{item.context} {choice}")
            added = tuple(whole[len(context) :])
            if not added or whole[: len(context)] != context:
                raise CorpusError(
                    f"multiple-choice item {number + 1}",
                    f"the choice {choice!r} does not continue the context token by token",
                    "end contexts and begin choices at a word boundary",
                )
            if maximum is not None and len(whole) - 1 > maximum:
                raise CorpusError(
                    f"multiple-choice item {number + 1}",
                    f"it has {len(whole)} tokens, the model allows {maximum}",
                    "shorten the context",
                )
            shared[tuple(whole[:-1])].append((number, index, len(context), added))
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for sequence in shared:
        by_length[len(sequence)].append(sequence)
    return [
        _batch(sequences, shared)
        for length in sorted(by_length)
        for sequences in _pieces(by_length[length], sequences_at_once(length, vocabulary))
    ]


def sequences_at_once(length: int, vocabulary: int) -> int:
    """Return how many sequences of a length share a batch: at least one."""
    return max(1, LOGITS_AT_ONCE // (length * vocabulary))


def _batch(
    sequences: Sequence[tuple[int, ...]],
    shared: dict[tuple[int, ...], list[tuple[int, int, int, tuple[int, ...]]]],
) -> ChoiceBatch:
    continuations = tuple(
        ScoredContinuation(number, index, place, tuple(range(begin - 1, begin - 1 + len(added))), added)
        for place, sequence in enumerate(sequences)
        for number, index, begin, added in shared[sequence]
    )
    return ChoiceBatch(torch.tensor(sequences, dtype=torch.long), continuations)


def _pieces(sequences: list[tuple[int, ...]], size: int) -> Iterable[list[tuple[int, ...]]]:
    return (sequences[begin : begin + size] for begin in range(0, len(sequences), size))


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
