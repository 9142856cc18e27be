"""Cuts text into batches of sequences of one length, and keeps sums of their logits as they come.

Windows of the corpus give nats, agreement with the baseline and stop-word mass; multiple-choice items give the
log-likelihood of every choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CorpusError
from sw_audit.record.measurement import (
    Agreement,
    ChoiceAccuracy,
    PerWindow,
    StopWordMass,
    TokenLoss,
)

LOGITS_AT_ONCE = 1 << 25
"""Logits held per arm and batch: 2^25 in float32 are 128 MiB, small beside a layer of a large model."""
_TOKENS_AT_ONCE = 1024
"""Log-probabilities are taken over so many tokens at a time, which bounds memory for large vocabularies."""


def sequences_at_once(length: int, vocabulary: int) -> int:
    """Return how many sequences of a length share a batch: at least one."""
    return max(1, LOGITS_AT_ONCE // (length * vocabulary))


@dataclass(frozen=True)
class WindowBatch:
    """Some windows of the corpus from number `first` on; int64 [windows, tokens] and [windows]."""

    first: int
    token_ids: Tensor
    first_scored: Tensor


def batch_windows(windows: Windows, vocabulary: int) -> list[WindowBatch]:
    """Cut windows into batches whose logits fit the budget; order is kept."""
    count, length = windows.token_ids.shape
    size = sequences_at_once(length, vocabulary)
    return [
        WindowBatch(first, windows.token_ids[first : first + size], windows.first_scored[first : first + size])
        for first in range(0, count, size)
    ]


class WindowReader:
    """Sums over the scored tokens of each window, per arm.

    Stop words are ids, int64 [ids], or `None` if they are not measured. With `keeps_tokens` the divergence of
    every token is kept, to tell how it spreads.
    """

    def __init__(self, arms: int, windows: int, stop_words: Tensor | None, *, keeps_tokens: bool = False) -> None:
        self._per_token: list[list[Tensor]] | None = [[] for _ in range(arms)] if keeps_tokens else None
        self._nats, self._divergence, self._mass = torch.zeros(3, arms, windows, dtype=torch.float64)
        self._same_top = torch.zeros(arms, windows, dtype=torch.long)
        self._tokens = torch.zeros(windows, dtype=torch.long)
        self._stop_words = stop_words

    def read(self, batch: WindowBatch, arm: int, logits: Tensor, baseline: Tensor) -> None:
        """Add one batch of one arm; logits are [windows, tokens, vocabulary].

        Where the baseline's vocabulary is another's, both are compared on the tokens that both have.
        """
        length = batch.token_ids.shape[1]
        for row, first_scored in enumerate(batch.first_scored.tolist()):
            window = batch.first + row
            self._tokens[window] = length - first_scored
            for begin in range(first_scored, length, _TOKENS_AT_ONCE):
                end = min(begin + _TOKENS_AT_ONCE, length)
                targets, before = batch.token_ids[row, begin:end].to(logits.device), slice(begin - 1, end - 1)
                self._add(arm, window, targets, logits[row, before], baseline[row, before])

    def _add(self, arm: int, window: int, targets: Tensor, logits: Tensor, baseline: Tensor) -> None:
        log_p = logits.float().log_softmax(-1)  # [tokens, vocabulary]
        self._nats[arm, window] -= log_p.gather(1, targets[:, None]).double().sum().cpu()
        if self._stop_words is not None:
            self._mass[arm, window] += log_p[:, self._stop_words.to(log_p.device)].exp().double().sum().cpu()
        if logits is baseline or arm == 0:
            self._same_top[arm, window] += len(targets)
            return
        if logits.shape[-1] != baseline.shape[-1]:
            common = min(logits.shape[-1], baseline.shape[-1])
            logits, baseline = logits[:, :common], baseline[:, :common]
            log_p = logits.float().log_softmax(-1)
        log_q = baseline.float().log_softmax(-1).to(log_p.device)
        difference = torch.where(log_q.isneginf(), 0.0, log_q.exp() * (log_q - log_p))
        per_token = difference.double().sum(-1).cpu()  # [tokens]
        self._divergence[arm, window] += per_token.sum()
        if self._per_token is not None:
            self._per_token[arm].append(per_token)
        # What is not finite has no most likely token: the index that argmax gives there means nothing.
        same = (logits.argmax(-1).cpu() == baseline.argmax(-1).cpu()) & logits.amax(-1).isfinite().cpu()
        self._same_top[arm, window] += same.sum()

    def loss(self, arm: int) -> TokenLoss:
        """Return the loss of one arm."""
        return TokenLoss(nats=_finite(self._nats[arm]), tokens=tuple(self._tokens.tolist()))

    def agreement(self, arm: int) -> Agreement:
        """Return the agreement of one arm with the baseline."""
        return Agreement(
            divergence=_finite(self._divergence[arm]),
            same_top=tuple(self._same_top[arm].tolist()),
            tokens=tuple(self._tokens.tolist()),
            token_divergence=self._list_tokens(arm),
        )

    def _list_tokens(self, arm: int) -> PerWindow:
        if self._per_token is None or not self._per_token[arm]:
            return ()
        # Rounding may take the divergence of equal distributions below zero. Logits are of single precision: so is
        # what is kept, in as few digits as say it.
        nats = torch.cat(self._per_token[arm]).clamp_min(0.0).float().numpy()
        return tuple(float(str(one)) if math.isfinite(one) else None for one in nats)

    def stop_words(self, arm: int) -> StopWordMass | None:
        """Return the mass on stop words in one arm."""
        if self._stop_words is None:
            return None
        return StopWordMass(mass=_finite(self._mass[arm]), tokens=tuple(self._tokens.tolist()))


@dataclass(frozen=True)
class ScoredContinuation:
    """One choice of one item inside a batch: positions of a sequence, and the tokens expected after them."""

    item: int
    choice: int
    sequence: int
    positions: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceBatch:
    """Choices that end at one length; token ids are int64 [sequences, tokens]."""

    token_ids: Tensor
    continuations: tuple[ScoredContinuation, ...]


def batch_choices(
    items: Sequence[ChoiceItem], tokenizer: Any, bos: int | None, vocabulary: int, maximum: int | None
) -> list[ChoiceBatch]:
    """Cut multiple-choice items into batches of one length, without padding.

    A choice is scored by the log-likelihood of its tokens after the context. Choices that share all but their
    last token share one sequence, so an item with one-token choices is run once.

    Raises:
        CorpusError: If an item is longer than the model allows, or a choice adds no token.
    """
    continuations: dict[tuple[int, ...], list[tuple[int, int, int, tuple[int, ...]]]] = defaultdict(list)

    def encode(text: str) -> list[int]:
        return [*([] if bos is None else [bos]), *tokenizer.encode(text, add_special_tokens=False)]

    for number, item in enumerate(items):
        asked = f"multiple-choice item {number + 1}"
        context = encode(item.context)
        for index, choice in enumerate(item.choices):
            whole = encode(f"{item.context} {choice}")
            added = tuple(whole[len(context) :])
            if not added or whole[: len(context)] != context:
                found = f"the choice {choice!r} does not continue the context token by token"
                raise CorpusError(asked, found, "end contexts and begin choices at a word boundary")
            if maximum is not None and len(whole) - 1 > maximum:
                found = f"it has {len(whole)} tokens, the model allows {maximum}"
                raise CorpusError(asked, found, "shorten the context")
            continuations[tuple(whole[:-1])].append((number, index, len(context), added))
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for sequence in continuations:
        by_length[len(sequence)].append(sequence)
    batches = []
    for length in sorted(by_length):
        sequences, size = by_length[length], sequences_at_once(length, vocabulary)
        for begin in range(0, len(sequences), size):
            piece = sequences[begin : begin + size]
            scored = tuple(
                ScoredContinuation(number, index, row, tuple(range(start - 1, start - 1 + len(added))), added)
                for row, sequence in enumerate(piece)
                for number, index, start, added in continuations[sequence]
            )
            batches.append(ChoiceBatch(torch.tensor(piece, dtype=torch.long), scored))
    return batches


class ChoiceReader:
    """Log-likelihood of every choice, per arm.

    Per item it is given the index of the right choice and the number of choices.
    """

    def __init__(self, arms: int, answers: Sequence[int], choices: Sequence[int]) -> None:
        self._answers, self._choices = tuple(answers), tuple(choices)
        self._scores = [[[-math.inf] * count for count in choices] for _ in range(arms)]

    def read(self, batch: ChoiceBatch, arm: int, logits: Tensor) -> None:
        """Add one batch of one arm; `logits` is [sequences, tokens, vocabulary]."""
        for scored in batch.continuations:
            log_p = logits[scored.sequence, list(scored.positions)].float().log_softmax(-1)  # [tokens, vocabulary]
            targets = torch.tensor(scored.targets, device=log_p.device)
            self._scores[arm][scored.item][scored.choice] = float(log_p.gather(1, targets[:, None]).sum())

    def accuracy(self, arm: int) -> ChoiceAccuracy | None:
        """Return how many items one arm answers correctly; a tie or a non-finite score is no answer."""
        if not self._answers:
            return None
        correct = tuple(
            all(math.isfinite(score) for score in scores)
            and all(scores[answer] > score for choice, score in enumerate(scores) if choice != answer)
            for scores, answer in zip(self._scores[arm], self._answers, strict=True)
        )
        chance = sum(1 / count for count in self._choices) / len(self._choices)
        return ChoiceAccuracy(correct=correct, chance=chance)


def _finite(sums: Tensor) -> PerWindow:
    return tuple(value if math.isfinite(value) else None for value in sums.tolist())
