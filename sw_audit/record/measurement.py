"""What was measured: sums per window first, ratios last."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index
from sw_audit.record.arm import Arm

PerWindow = tuple[float | None, ...]


class TokenLoss(Fact):
    """Negative log-likelihood, summed per window.

    Attributes:
        nats: Per window, the sum over its scored tokens; `None` where it is not finite.
        tokens: Per window, how many tokens were scored.
    """

    nats: PerWindow
    tokens: tuple[Index, ...]

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.nats) != len(self.tokens):
            raise ValueError(f"{len(self.nats)} windows of nats but {len(self.tokens)} of tokens")
        return self

    @property
    def finite_nats(self) -> list[float]:
        """The nats of each window in which they are finite."""
        return [nats for nats in self.nats if nats is not None]

    @property
    def mean_nats(self) -> float | None:
        """Nats per token; `None` if any window is not finite."""
        return _mean(self.nats, sum(self.tokens))

    @property
    def perplexity(self) -> float | None:
        """exp(nats per token); `None` if that is not finite."""
        mean = self.mean_nats
        return None if mean is None or mean > 700 else math.exp(mean)

    def __add__(self, other: TokenLoss) -> TokenLoss:
        return TokenLoss(nats=self.nats + other.nats, tokens=self.tokens + other.tokens)


class DivergenceSpread(Fact):
    """How KL divergence spreads over tokens, in nats; of all tokens together, so it has no interval.

    Attributes:
        median: Half of the tokens are below.
        p99: 99 in 100 tokens are below.
        maximum: No token is above.
    """

    median: float = Field(ge=0)
    p99: float = Field(ge=0)
    maximum: float = Field(ge=0)


class Agreement(Fact):
    """How far an arm's next-token distributions are from the baseline's, summed per window.

    Attributes:
        divergence: Per window, the sum over tokens of KL(baseline || arm) in nats.
        same_top: Per window, at how many tokens both give the same most likely token.
        tokens: Per window, how many tokens were compared.
        spread: How the divergence spreads over tokens; `None` if not asked for, or not finite.
    """

    divergence: PerWindow
    same_top: tuple[Index, ...]
    tokens: tuple[Index, ...]
    spread: DivergenceSpread | None = None

    @property
    def mean_divergence(self) -> float | None:
        """Nats per token; `None` if any window is not finite."""
        return _mean(self.divergence, sum(self.tokens))

    @property
    def top1(self) -> float:
        """Part of the tokens at which both give the same most likely token."""
        return sum(self.same_top) / sum(self.tokens)


class StopWordMass(Fact):
    """Probability given to stop words as the next token, summed per window (Yu et al. 2024, section 3.3).

    Attributes:
        mass: Per window, the sum over tokens; `None` where it is not finite.
        tokens: Per window, how many next-token distributions were read.
    """

    mass: PerWindow
    tokens: tuple[Index, ...]

    @property
    def mean_mass(self) -> float | None:
        """Probability per token; `None` if any window is not finite."""
        return _mean(self.mass, sum(self.tokens))


class ChoiceAccuracy(Fact):
    """Multiple-choice items answered by the likeliest continuation.

    Attributes:
        correct: Per item, whether the right choice was the likeliest; a non-finite item is not correct.
        chance: Accuracy of guessing.
    """

    correct: tuple[bool, ...]
    chance: float = Field(gt=0, lt=1)

    @property
    def accuracy(self) -> float:
        """Part of the items answered correctly."""
        return sum(self.correct) / len(self.correct)


class Measurement(Fact):
    """One model measured in one arm.

    Attributes:
        model: The model's id.
        arm: The condition.
        protocol: Signature of the protocol.
        loss: Loss on the corpus.
        agreement: Agreement with the baseline arm.
        stop_words: Mass on stop words, if stop words are known.
        choices: Multiple-choice accuracy, if there are items.
        peaks: Per decoder layer, the largest magnitude in its output over the corpus.
        seconds: Time spent in this arm.
    """

    model: str
    arm: Arm
    protocol: str
    loss: TokenLoss
    agreement: Agreement
    stop_words: StopWordMass | None = None
    choices: ChoiceAccuracy | None = None
    peaks: PerWindow
    seconds: float = Field(ge=0)


def _mean(sums: PerWindow, count: int) -> float | None:
    finite = [value for value in sums if value is not None]
    return math.fsum(finite) / count if count and len(finite) == len(sums) else None
