"""Reads logits as they come and keeps sums: nats, agreement with the baseline, stop-word mass, choices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from sw_audit.measure.batches import ChoiceBatch, WindowBatch
from sw_audit.record.measurement import (
    Agreement,
    ChoiceAccuracy,
    DivergenceSpread,
    PerWindow,
    StopWordMass,
    TokenLoss,
)

_TOKENS_AT_ONCE = 1024
"""Log-probabilities are taken over so many tokens at a time, which bounds memory for large vocabularies."""


class WindowReader:
    """Sums over the scored tokens of each window, per arm.

    Args:
        arms: Number of arms.
        windows: Number of windows.
        stop_words: Ids of stop words, int64 [ids], or `None` if they are not measured.
        spread: Whether the divergence of every token is kept, to tell how it spreads.
    """

    def __init__(self, arms: int, windows: int, stop_words: Tensor | None, *, spread: bool = False) -> None:
        shape = (arms, windows)
        self._per_token: list[list[Tensor]] | None = [[] for _ in range(arms)] if spread else None
        self._nats = torch.zeros(shape, dtype=torch.float64)
        self._divergence = torch.zeros(shape, dtype=torch.float64)
        self._mass = torch.zeros(shape, dtype=torch.float64)
        self._same_top = torch.zeros(shape, dtype=torch.long)
        self._tokens = torch.zeros(windows, dtype=torch.long)
        self._stop_words = stop_words

    def read(self, batch: WindowBatch, arm: int, logits: Tensor, baseline: Tensor) -> None:
        """Add one batch of one arm.

        Args:
            batch: The windows.
            arm: Index of the arm.
            logits: [windows, tokens, vocabulary].
            baseline: The baseline arm's logits for the same windows. Where its vocabulary is another's, both are
                compared on the tokens that both have.
        """
        length = batch.token_ids.shape[1]
        for place, first_scored in enumerate(batch.first_scored.tolist()):
            window = batch.first + place
            self._tokens[window] = length - first_scored
            for begin in range(first_scored, length, _TOKENS_AT_ONCE):
                end = min(begin + _TOKENS_AT_ONCE, length)
                self._add(
                    arm,
                    window,
                    batch.token_ids[place, begin:end].to(logits.device),
                    logits[place, begin - 1 : end - 1],
                    baseline[place, begin - 1 : end - 1],
                )

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
            spread=self._spread(arm),
        )

    def _spread(self, arm: int) -> DivergenceSpread | None:
        """Return how the divergence of one arm spreads over tokens, if that was kept and all of it is finite."""
        if self._per_token is None or not self._per_token[arm]:
            return None
        # Rounding may take the divergence of equal distributions below zero.
        found = torch.cat(self._per_token[arm]).clamp_min(0.0).numpy()
        if not numpy.isfinite(found).all():
            return None
        median, p99, maximum = (float(one) for one in numpy.quantile(found, (0.5, 0.99, 1.0)))
        return DivergenceSpread(median=median, p99=p99, maximum=maximum)

    def stop_words(self, arm: int) -> StopWordMass | None:
        """Return the mass on stop words in one arm."""
        if self._stop_words is None:
            return None
        return StopWordMass(mass=_finite(self._mass[arm]), tokens=tuple(self._tokens.tolist()))


class ChoiceReader:
    """Log-likelihood of every choice, per arm.

    Args:
        arms: Number of arms.
        answers: Per item, the index of the right choice.
        choices: Per item, the number of choices.
    """

    def __init__(self, arms: int, answers: Sequence[int], choices: Sequence[int]) -> None:
        self._answers, self._choices = tuple(answers), tuple(choices)
        self._scores = [[[-math.inf] * count for count in choices] for _ in range(arms)]

    def read(self, batch: ChoiceBatch, arm: int, logits: Tensor) -> None:
        """Add one batch of one arm; `logits` is [sequences, tokens, vocabulary]."""
        for one in batch.continuations:
            picked = logits[one.sequence, list(one.positions)].float().log_softmax(-1)  # [tokens, vocabulary]
            targets = torch.tensor(one.targets, device=picked.device)
            self._scores[arm][one.item][one.choice] = float(picked.gather(1, targets[:, None]).sum())

    def accuracy(self, arm: int) -> ChoiceAccuracy | None:
        """Return how many items one arm answers correctly; a tie or a non-finite score is no answer."""
        if not self._answers:
            return None
        return ChoiceAccuracy(
            correct=tuple(
                _is_answer(scores, answer) for scores, answer in zip(self._scores[arm], self._answers, strict=True)
            ),
            chance=sum(1 / count for count in self._choices) / len(self._choices),
        )


def _is_answer(scores: Sequence[float], answer: int) -> bool:
    others = [score for index, score in enumerate(scores) if index != answer]
    return all(math.isfinite(score) for score in scores) and all(scores[answer] > score for score in others)


def _finite(sums: Tensor) -> PerWindow:
    return tuple(value if math.isfinite(value) else None for value in sums.tolist())
