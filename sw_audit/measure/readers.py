"""Cuts text into batches of sequences of one length, and keeps sums of their logits as they come.

Windows of the corpus give nats, agreement with the baseline and stop-word mass; multiple-choice items give the
log-likelihood of every choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sw_audit.corpus.choices import ChoiceItem
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CorpusError
from sw_audit.quantize.batches import CACHE_SIZED, DEVICE_SIZED
from sw_audit.record.measurement import (
    Agreement,
    ChoiceAccuracy,
    PerWindow,
    StopWordMass,
    TokenLoss,
)

LOGITS_AT_ONCE = 1 << 24
"""Logits that an arm gives at once: in float32 64 MiB. Of the baseline's there are three such tensors."""
_TOKENS_AT_ONCE = 1 << 12
"""Tokens in a batch, unless one sequence has more: fewer make a layer no slower, more only take memory."""
_CHANNELS_AT_ONCE = 1 << 22
"""What the widest matrix of a layer gives for all tokens of a batch: in float32 16 MiB.

It is the same whatever the memory, so that batches are.
"""


def sequences_at_once(length: int, vocabulary: int) -> int:
    """Return how many sequences of a length share a batch in which every token is scored: at least one."""
    return max(1, min(LOGITS_AT_ONCE // vocabulary, _TOKENS_AT_ONCE) // length)


@dataclass(frozen=True)
class WindowBatch:
    """Some windows of the corpus from number `first` on; int64 [windows, tokens] and [windows].

    `pieces` are the places in sequences times tokens whose logits are read, int64, some at a time.
    """

    first: int
    token_ids: Tensor
    first_scored: Tensor
    pieces: tuple[Tensor, ...]


def batch_windows(windows: Windows, vocabulary: int) -> list[WindowBatch]:
    """Cut windows into batches whose logits fit the budget; order is kept."""
    count, length = windows.token_ids.shape
    size = sequences_at_once(length, vocabulary)
    batches = []
    for first in range(0, count, size):
        some = slice(first, first + size)
        token_ids, first_scored = windows.token_ids[some], windows.first_scored[some]
        # What a token follows gives the logits that it is scored by.
        follows = torch.arange(1, length + 1).expand(token_ids.shape)
        places = ((follows >= first_scored[:, None]) & (follows < length)).flatten().nonzero()[:, 0]
        batches.append(WindowBatch(first, token_ids, first_scored, _cut(places, vocabulary)))
    return batches


def _cut(places: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    return torch.split(places, max(1, LOGITS_AT_ONCE // vocabulary))


@dataclass(frozen=True, eq=False)
class _Expected:
    """What the baseline expects at some places; [places, vocabulary], and the likeliest token [places, 1]."""

    log_q: Tensor
    q: Tensor
    top: Tensor
    impossible: Tensor | None

    @classmethod
    def of(cls, logits: Tensor) -> _Expected:
        log_q = logits.float().log_softmax(-1)
        impossible = log_q.isneginf() if bool(log_q.amin() == -math.inf) else None
        return cls(log_q, log_q.exp(), logits.argmax(-1, keepdim=True), impossible)

    def diverge(self, log_p_: Tensor) -> Tensor:
        """Return the divergence at each place; log-probabilities are written into."""
        difference = torch.sub(self.log_q, log_p_, out=log_p_)
        if self.impossible is not None:
            difference.masked_fill_(self.impossible, 0.0)
        divergence: Tensor = torch.linalg.vecdot(self.q, difference)
        return divergence

    def shares_top(self, logits: Tensor) -> Tensor:
        """Tell at which places `argmax` of logits is the baseline's, which takes ten times as long by itself."""
        peak, held = logits.amax(-1, keepdim=True), logits.gather(1, self.top)
        # What is not finite has no most likely token: the index that argmax gives there means nothing.
        same = (held == peak) & peak.isfinite()  # [places, 1]
        others = logits.scatter(1, self.top, -math.inf).amax(-1, keepdim=True)
        tied = (same & (others == peak))[:, 0]
        if tied.any():
            same[tied] = logits[tied].argmax(-1, keepdim=True) == self.top[tied]
        return same[:, 0]


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
        # Of the baseline's logits that were compared with last: their id, the vocabulary, pieces, themselves.
        self._expected: tuple[int, int, list[_Expected], Tensor] | None = None

    def read(self, batch: WindowBatch, arm: int, places: Tensor, logits: Tensor, baseline: Tensor) -> None:
        """Add one piece of a batch in one arm; logits are [places, vocabulary].

        Where the baseline's vocabulary is another's, both are compared on the tokens that both have.
        """
        length = batch.token_ids.shape[1]
        self._tokens[batch.first : batch.first + len(batch.token_ids)] = length - batch.first_scored
        windows, targets = batch.first + places // length, batch.token_ids.flatten()[places + 1]
        compared = arm > 0 and logits is not baseline
        # [places] each: losses, masses, divergences, whether the likeliest token is the same.
        read = [
            self._read_some(logits[some], targets[some].to(logits.device), expected)
            for some, expected in self._take_baseline(baseline, logits, compared=compared)
        ]
        nats, mass, divergence, same_top = (torch.cat(parts).cpu() for parts in zip(*read, strict=True))
        self._nats[arm].index_add_(0, windows, nats.double())
        self._mass[arm].index_add_(0, windows, mass.double())
        self._same_top[arm].index_add_(0, windows, same_top.long())
        if compared:
            self._divergence[arm].index_add_(0, windows, divergence.double())
            if self._per_token is not None:
                self._per_token[arm].append(divergence.double())

    def _take_baseline(
        self, baseline: Tensor, logits: Tensor, *, compared: bool
    ) -> Iterable[tuple[slice, _Expected | None]]:
        """Return pieces that stay in the processor's cache, each with what is expected there."""
        limit = CACHE_SIZED if logits.device.type == "cpu" else DEVICE_SIZED
        size = max(1, limit // logits.shape[-1])
        pieces = [slice(first, first + size) for first in range(0, len(logits), size)]
        if not compared:
            return zip(pieces, repeat(None), strict=False)
        common = min(logits.shape[-1], baseline.shape[-1])
        if self._expected is None or self._expected[:2] != (id(baseline), common):
            expected = [_Expected.of(baseline[some, :common].to(logits.device)) for some in pieces]
            self._expected = (id(baseline), common, expected, baseline)
        return zip(pieces, self._expected[2], strict=True)

    def _read_some(
        self, logits: Tensor, targets: Tensor, expected: _Expected | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = logits.float()
        log_p = logits.log_softmax(-1)  # [places, vocabulary]
        nats = -log_p.gather(1, targets[:, None])[:, 0]
        mass = torch.zeros_like(nats)
        if self._stop_words is not None:
            mass = log_p[:, self._stop_words.to(log_p.device)].exp().sum(-1, dtype=torch.float64)
        if expected is None:
            return nats, mass, torch.zeros_like(nats), torch.ones_like(nats, dtype=torch.bool)
        common = expected.log_q.shape[-1]
        if logits.shape[-1] != common:
            logits = logits[:, :common]
            log_p = logits.log_softmax(-1)
        return nats, mass, expected.diverge(log_p), expected.shares_top(logits)

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


class LossReader:
    """Nats of each window, per arm, and nothing else."""

    def __init__(self, arms: int, windows: int) -> None:
        self._nats = torch.zeros(arms, windows, dtype=torch.float64)

    def read(self, batch: WindowBatch, arm: int, places: Tensor, logits: Tensor) -> None:
        """Add one piece of a batch in one arm; logits are [places, vocabulary]."""
        targets = batch.token_ids.flatten()[places + 1].to(logits.device)
        nats = cross_entropy(logits.float(), targets, reduction="none").cpu().double()
        self._nats[arm].index_add_(0, batch.first + places // batch.token_ids.shape[1], nats)

    def nats(self, arm: int) -> PerWindow:
        """Return the sum over each window's scored tokens in one arm; `None` where it is not finite."""
        return _finite(self._nats[arm])


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
    """Choices that end at one length; token ids are int64 [sequences, tokens].

    `pieces` are the places in sequences times tokens whose logits are read, int64, some at a time.
    """

    token_ids: Tensor
    continuations: tuple[ScoredContinuation, ...]
    pieces: tuple[Tensor, ...]


def batch_choices(
    items: Sequence[ChoiceItem],
    tokenizer: Any,
    bos: int | None,
    vocabulary: int,
    maximum: int | None,
    width: int = 1,
) -> list[ChoiceBatch]:
    """Cut multiple-choice items into batches of one length, without padding.

    `width` is how many channels the widest matrix of a layer gives.

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
        sequences = by_length[length]
        size = max(1, min(_TOKENS_AT_ONCE, _CHANNELS_AT_ONCE // width) // length)
        for begin in range(0, len(sequences), size):
            batches.append(_make_batch(length, sequences[begin : begin + size], continuations, vocabulary))
    return batches


def _make_batch(
    length: int,
    sequences: Sequence[tuple[int, ...]],
    continuations: Mapping[tuple[int, ...], Sequence[tuple[int, int, int, tuple[int, ...]]]],
    vocabulary: int,
) -> ChoiceBatch:
    scored = tuple(
        ScoredContinuation(number, index, row, tuple(range(start - 1, start - 1 + len(added))), added)
        for row, sequence in enumerate(sequences)
        for number, index, start, added in continuations[sequence]
    )
    places = sorted({one.sequence * length + position for one in scored for position in one.positions})
    return ChoiceBatch(torch.tensor(sequences), scored, _cut(torch.tensor(places), vocabulary))


class ChoiceReader:
    """Log-likelihood of every choice, per arm.

    Per item it is given the index of the right choice and the number of choices.
    """

    def __init__(self, arms: int, answers: Sequence[int], choices: Sequence[int]) -> None:
        self._answers, self._choices = tuple(answers), tuple(choices)
        self._scores = [[[math.nan] * count for count in choices] for _ in range(arms)]

    def read(self, batch: ChoiceBatch, arm: int, places: Tensor, logits: Tensor) -> None:
        """Add one piece of a batch in one arm; `logits` is [places, vocabulary]."""
        log_p = logits.float().log_softmax(-1)
        length = batch.token_ids.shape[1]
        rows = {place: row for row, place in enumerate(places.tolist())}
        # One token of one choice each: where it is scored, what it is, whose it is.
        tokens = [
            (rows[place], target, scored, number)
            for scored in batch.continuations
            for number, (position, target) in enumerate(zip(scored.positions, scored.targets, strict=True))
            if (place := scored.sequence * length + position) in rows
        ]
        held = log_p[[row for row, *_ in tokens], [target for _, target, *_ in tokens]].tolist()
        for (_, _, scored, number), nats in zip(tokens, held, strict=True):
            scores = self._scores[arm][scored.item]
            scores[scored.choice] = nats if number == 0 else scores[scored.choice] + nats

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
