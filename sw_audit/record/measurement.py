"""What was measured: sums per window first, ratios last; and quantizers side by side."""

from __future__ import annotations

import math
from typing import Literal, Self, TypeVar

import numpy
from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index
from sw_audit.record.arm import Arm
from sw_audit.record.experts import RoutedLayer, join_routing

PerWindow = tuple[float | None, ...]
# exp() of more nats than this overflows.
_MAXIMUM_NATS = 700


class Look(Fact):
    """How much has been measured after one step of evidence.

    Attributes:
        windows: How many windows, from the first on.
        items: How many multiple-choice items, from the first on.
    """

    windows: Index
    items: Index = 0


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
        return None if mean is None or mean > _MAXIMUM_NATS else math.exp(mean)

    def ratio_to(self, other: TokenLoss) -> float | None:
        """Return this perplexity over another on the windows that both were measured on.

        `None` if either is not finite there, or they have none in common.
        """
        count = min(len(self.tokens), len(other.tokens))
        ours, theirs = self.first(count), other.first(count)
        if not count or ours.tokens != theirs.tokens or ours.mean_nats is None or theirs.mean_nats is None:
            return None
        difference = ours.mean_nats - theirs.mean_nats
        return math.exp(difference) if difference <= _MAXIMUM_NATS else None

    def first(self, windows: int) -> TokenLoss:
        """Return the loss on the first windows alone."""
        return TokenLoss(nats=self.nats[:windows], tokens=self.tokens[:windows])

    def __add__(self, other: TokenLoss) -> TokenLoss:
        return TokenLoss(nats=self.nats + other.nats, tokens=self.tokens + other.tokens)


class DivergenceSpread(Fact):
    """How KL divergence spreads over tokens, in nats.

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
        token_divergence: Per token, window by window, KL(baseline || arm) in nats; `None` where it is not finite.
            Of a descendant alone, else empty.
        top_tokens: Where an engine tells the likeliest tokens alone, how many: divergence is then that of those
            that both tell, with all others as one, and no more than that of the whole; `None` where all are told.
        spread: How the divergence spreads over tokens, in records that kept no single tokens; see `tail`.
    """

    divergence: PerWindow
    same_top: tuple[Index, ...]
    tokens: tuple[Index, ...]
    token_divergence: PerWindow = ()
    spread: DivergenceSpread | None = None
    top_tokens: Index | None = None

    @property
    def tail(self) -> DivergenceSpread | None:
        """How the divergence spreads over tokens; `None` if that was not measured, or is not finite."""
        nats = [one for one in self.token_divergence if one is not None]
        if not nats or len(nats) < len(self.token_divergence):
            return self.spread
        median, p99, maximum = (float(level) for level in numpy.quantile(nats, (0.5, 0.99, 1.0)))
        return DivergenceSpread(median=median, p99=p99, maximum=maximum)

    def first(self, windows: int) -> Agreement:
        """Return the agreement in the first windows alone; what is known of all tokens together stays."""
        return self.model_copy(
            update={
                "divergence": self.divergence[:windows],
                "same_top": self.same_top[:windows],
                "tokens": self.tokens[:windows],
                "token_divergence": self.token_divergence[: sum(self.tokens[:windows])],
            }
        )

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            divergence=self.divergence + other.divergence,
            same_top=self.same_top + other.same_top,
            tokens=self.tokens + other.tokens,
            token_divergence=self.token_divergence + other.token_divergence,
            top_tokens=self.top_tokens,
        )

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

    def first(self, windows: int) -> StopWordMass:
        """Return the mass in the first windows alone."""
        return StopWordMass(mass=self.mass[:windows], tokens=self.tokens[:windows])

    def __add__(self, other: StopWordMass) -> StopWordMass:
        return StopWordMass(mass=self.mass + other.mass, tokens=self.tokens + other.tokens)


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

    def first(self, items: int) -> ChoiceAccuracy:
        """Return the answers to the first items alone."""
        return ChoiceAccuracy(correct=self.correct[:items], chance=self.chance)

    def __add__(self, other: ChoiceAccuracy) -> ChoiceAccuracy:
        ours, theirs = len(self.correct), len(other.correct)
        chance = (ours * self.chance + theirs * other.chance) / (ours + theirs)
        return ChoiceAccuracy(correct=self.correct + other.correct, chance=chance)


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
        peaks: Per decoder layer, the largest magnitude in its output, the residual stream, over the corpus;
            `None` where it is not finite.
        down_inputs: Per decoder layer, the largest magnitude that enters its down-projections, `None` if it cannot
            be seen or is not finite. Only of a model by itself, as it is; beside a parent see `LayerError`.
        down_outputs: Likewise what leaves them.
        routing: Of a mixture of experts as it is, where the tokens that it saw were routed, per decoder layer that
            keeps experts; empty of other models and arms.
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
    down_inputs: PerWindow = ()
    down_outputs: PerWindow = ()
    routing: tuple[RoutedLayer, ...] = ()
    seconds: float = Field(ge=0)

    def first(self, windows: int, items: int) -> Measurement:
        """Return what was measured on the first windows and items; peaks and routing stay those of all windows."""
        return self.model_copy(
            update={
                "loss": self.loss.first(windows),
                "agreement": self.agreement.first(windows),
                "stop_words": self.stop_words and self.stop_words.first(windows),
                "choices": self.choices and self.choices.first(items),
            }
        )

    def __add__(self, other: Measurement) -> Measurement:
        """Join what was measured on some windows and items with what the same arm gives on the next ones.

        Items are in both, in neither, or in the first alone.
        """
        return self.model_copy(
            update={
                "loss": self.loss + other.loss,
                "agreement": self.agreement + other.agreement,
                "stop_words": _join(self.stop_words, other.stop_words),
                "choices": _join(self.choices, other.choices),
                "peaks": _merge_peaks(self.peaks, other.peaks),
                "down_inputs": _merge_peaks(self.down_inputs, other.down_inputs),
                "down_outputs": _merge_peaks(self.down_outputs, other.down_outputs),
                "routing": join_routing(self.routing, other.routing),
                "seconds": self.seconds + other.seconds,
            }
        )


class PromptContinuation(Fact):
    """What a model by itself goes on with after one prompt, greedily.

    Attributes:
        prompt: The prompt, as text.
        tokens: Its length in tokens.
        new_tokens: The tokens that it goes on with; they end before one whose logits are not finite.
        text: These as text.
        finite: Whether all logits were finite.
    """

    prompt: str
    tokens: Index
    new_tokens: tuple[int, ...]
    text: str = ""
    finite: bool = True

    @property
    def label(self) -> str:
        """How it is called among the continuations of a model."""
        return label_continuation(self.tokens, len(self.new_tokens))


def label_continuation(tokens: int, new_tokens: int) -> str:
    """Call a continuation by the lengths of its prompt and of itself."""
    return f"prompt of {tokens} token{'s' if tokens != 1 else ''}, {new_tokens} new"


def _merge_peaks(first: PerWindow, second: PerWindow) -> PerWindow:
    """Take the larger peak of each layer; what is not finite, or not seen, in one is not in both."""
    pairs = zip(first, second, strict=True)
    return tuple(None if None in pair else max(peak for peak in pair if peak is not None) for pair in pairs)


_Sums = TypeVar("_Sums", StopWordMass, ChoiceAccuracy)


def _join(first: _Sums | None, second: _Sums | None) -> _Sums | None:
    return first if first is None or second is None else first + second


def _mean(sums: PerWindow, count: int) -> float | None:
    finite = [value for value in sums if value is not None]
    return math.fsum(finite) / count if count and len(finite) == len(sums) else None


ROUND_TO_NEAREST = "round-to-nearest"


class Quality(Fact):
    """How far a quantized model is from the model as it is.

    Attributes:
        perplexity: Its perplexity; `None` if it is not finite.
        ratio: That over the baseline's.
        low: Lower end of the ratio's interval, with windows as the units; `None` without one.
        high: Upper end.
        divergence: KL(baseline || it), nats per token; `None` if it is not finite.
        top1: Part of the tokens at which both give the same most likely token.
        accuracy: Multiple-choice accuracy, if there are items.
    """

    perplexity: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    divergence: float | None = None
    top1: float | None = Field(default=None, ge=0, le=1)
    accuracy: float | None = Field(default=None, ge=0, le=1)


class ComparedQuantizer(Fact):
    """One quantizer in one setting.

    Attributes:
        method: `round-to-nearest`, or the name of another library's method, such as `bitsandbytes-nf4`.
        settings: The recipe's notation, or how the library was used.
        hold_out: Whether super weights were held out: `none`, `held`, or `nothing-to-hold` where none was located.
        package: The library and its version; `None` for round-to-nearest, and for what is not installed.
        what: What the method is, one clause.
        arm: Name of the arm it was measured in; `None` if it was not.
        quality: How good it is; `None` if it was not measured.
        bits_per_weight: Of the decoder's matrices: all that is stored for them, over the number of their weights.
        seconds: Time to quantize them, reading text and writing files left out.
        peak_bytes: Most memory held on the way, beyond the model's own.
        left_alone: How many of the decoder's matrices the method does not quantize; their bits count.
        because: Why there are no figures; `None` if there are.
    """

    method: str
    settings: str
    hold_out: Literal["none", "held", "nothing-to-hold"] = "none"
    package: str | None = None
    what: str
    arm: str | None = None
    quality: Quality | None = None
    bits_per_weight: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, ge=0)
    peak_bytes: Index | None = None
    left_alone: Index = 0
    because: str | None = None

    @property
    def name(self) -> str:
        """What a table calls it."""
        if self.method != ROUND_TO_NEAREST:
            return self.method
        return f"{self.settings}{', held out' if self.hold_out == 'held' else ''}"


class Comparison(Fact):
    """All of them, on one model.

    Attributes:
        protocol: Signature of the protocol that every figure was measured under.
        baseline: The model as it is.
        dtype_bits: Bits of one of its weights.
        confidence: Of the intervals.
        calibration_windows: Windows of text, none of them scored, that were given to methods that want text.
        rows: One per quantizer and setting.
    """

    protocol: str
    baseline: Quality
    dtype_bits: Index
    confidence: float
    calibration_windows: Index
    rows: tuple[ComparedQuantizer, ...]

    @property
    def measured(self) -> tuple[ComparedQuantizer, ...]:
        """The rows that have figures."""
        return tuple(row for row in self.rows if row.quality is not None)
