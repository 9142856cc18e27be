"""Dose curves that others have published: what is left of a model when its super weights are scaled."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact


class DoseCurve(Fact):
    """One published curve.

    Attributes:
        model: The model's hub id.
        quantity: What was measured, in words.
        points: Factor by which the super weights were multiplied, and figure; by rising factor.
        source: Who measured it.
        own: Whether it is a curve of the audited model, and not only shown to compare with.
    """

    model: str
    quantity: str
    points: tuple[tuple[float, float], ...] = Field(min_length=1)
    source: str
    own: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        factors = [factor for factor, _ in self.points]
        if factors != sorted(set(factors)):
            raise ValueError("the factors of a dose curve must rise")
        return self

    @property
    def is_perplexity_ratio(self) -> bool:
        """Whether its figures are perplexities over that of the model as it is, and so comparable with ours."""
        return "perplexity ratio" in self.quantity
