"""Quantizers side by side: one protocol, one baseline, a row each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index

ROUND_TO_NEAREST = "round-to-nearest"


class Quality(Fact):
    """How far a quantized model is from the model as it is.

    Attributes:
        perplexity: Its perplexity; `None` if it is not finite.
        ratio: That over the baseline's.
        low: Lower end of the ratio's interval, by the paired bootstrap over windows; `None` without one.
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
