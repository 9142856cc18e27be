"""How weights and activations are quantized together: schemes such as `w8a8`, and what is measured of them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sw_audit.errors import PolicyError
from sw_audit.fact import Fact
from sw_audit.policy.recipe import PerRow, PerTensor, Recipe

_FULL_PRECISION = 16
Alpha = Annotated[float, Field(ge=0, le=1)]


class Scheme(Fact):
    """Bits of weights and of activations.

    Attributes:
        weights: 2 to 8; 16 leaves them in full precision.
        activations: 2 to 8.
    """

    weights: int = Field(ge=2, le=16)
    activations: int = Field(ge=2, le=8)

    @field_validator("weights")
    @classmethod
    def _known(cls, value: int) -> int:
        if 8 < value < _FULL_PRECISION:
            raise ValueError(f"weights have 2 to 8 bits, or 16, not {value}")
        return value

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"

    def recipe(self, granularity: Literal["tensor", "row"]) -> Recipe | None:
        """Return how weights are rounded, symmetric as in SmoothQuant; `None` if they are not."""
        if self.weights == _FULL_PRECISION:
            return None
        per = PerTensor() if granularity == "tensor" else PerRow()
        return Recipe(bits=self.weights, granularity=per, symmetric=True)


def parse_scheme(notation: str) -> Scheme:
    """Read a scheme from its notation; `str(scheme)` writes it.

    Raises:
        PolicyError: If the notation is not understood.
    """
    match = re.fullmatch(r"w([2-8]|16)a([2-8])", notation.strip().lower())
    if match is None:
        remedy = "write it like w8a8, w4a8, w16a8 or w16a4: bits of weights (2 to 8, or 16) and of activations"
        raise PolicyError(f"scheme {notation!r}", "this is no scheme of weights and activations", remedy)
    return Scheme(weights=int(match[1]), activations=int(match[2]))


class ActivationPolicy(Fact):
    """How activations are quantized, each scheme as it is, with the super activation held out, and by SmoothQuant.

    Attributes:
        enabled: Whether activations are quantized at all; without it the checks on them are skipped.
        schemes: Bits of weights and activations, such as `w8a8`; 16 leaves weights in full precision.
        weights: What shares one scale of weights: a whole matrix (`tensor`) or a `row`.
        scale: Scales of activations: one per `token`, taken from it, or one per `tensor`, learned on calibration
            text.
        alpha: SmoothQuant's: how much of the activations' range is moved into the weights.
        alphas: The alphas among which SmoothQuant's is searched on calibration text; empty means no search.
        calibration_windows: At most so many windows of the text, after the scored ones, are calibrated on.
    """

    enabled: bool = True
    schemes: tuple[str, ...] = ("w8a8",)
    weights: Literal["tensor", "row"] = "tensor"
    scale: Literal["token", "tensor"] = "token"
    alpha: Alpha = 0.85
    alphas: tuple[Alpha, ...] = (0.5, 0.65, 0.75, 0.85, 0.95)
    calibration_windows: int = Field(default=16, ge=0)

    @field_validator("schemes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [str(parse_scheme(notation)) for notation in value]
        if len(set(names)) < len(names):
            raise ValueError("a scheme is named twice")
        return tuple(names)

    @field_validator("alphas")
    @classmethod
    def _different(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("an alpha is named twice")
        return value

    def parsed(self) -> tuple[Scheme, ...]:
        """Return the schemes as values, in the policy's order; none if nothing is to be quantized."""
        return tuple(parse_scheme(notation) for notation in self.schemes) if self.enabled else ()


class AlphaTrial(Fact):
    """One alpha, tried on calibration text.

    Attributes:
        alpha: Which.
        nats: Nats per token; `None` if not finite.
        divergence: KL(model as it is || this arm), nats per token; `None` if not finite, or in an earlier record.
    """

    alpha: Alpha
    nats: float | None
    divergence: float | None = None


class AlphaSearch(Fact):
    """The search for SmoothQuant's alpha under one scheme.

    Attributes:
        scheme: Such as `w8a8`.
        trials: In the policy's order.
        chosen: The one with the least divergence, of equal ones the first; `None` if none is finite. In a record
            without divergences it is the one with the fewest nats.
    """

    scheme: str
    trials: tuple[AlphaTrial, ...]
    chosen: Alpha | None


class ActivationSetup(Fact):
    """What was found out before activations were quantized.

    Attributes:
        unroundable: Why this model's activations cannot be quantized here; `None` if they can.
        unsmoothable: Why SmoothQuant cannot be applied; `None` if it can.
        smoothed: How many projections it smooths.
        projections: How many there are in all.
        calibration_windows: How many windows were calibrated on, after the scored ones.
        calibration_tokens: How many tokens these hold.
        searches: One per scheme; empty if alpha was not searched.
    """

    unroundable: str | None = None
    unsmoothable: str | None = None
    smoothed: int = Field(default=0, ge=0)
    projections: int = Field(default=0, ge=0)
    calibration_windows: int = Field(default=0, ge=0)
    calibration_tokens: int = Field(default=0, ge=0)
    searches: tuple[AlphaSearch, ...] = ()

    def chosen(self, scheme: str) -> float | None:
        """Return the alpha that was found best for a scheme, if it was searched."""
        return next((search.chosen for search in self.searches if search.scheme == scheme), None)
