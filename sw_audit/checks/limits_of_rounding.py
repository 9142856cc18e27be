"""The limits of the checks on quantized weights and activations; and what the limits of all checks have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from sw_audit.errors import PolicyError
from sw_audit.fact import Fact
from sw_audit.policy.recipe import parse_recipe
from sw_audit.policy.scheme import parse_scheme

Ratio = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Limits(Fact):
    """What every check has: a switch.

    Attributes:
        enabled: Whether the check is run.
    """

    enabled: bool = True


def _is_recipe(notation: str) -> str:
    try:
        return str(parse_recipe(notation))
    except PolicyError as error:
        raise ValueError(str(error)) from error


class RtnHoldoutQualityLimits(Limits):
    """Limits of `rtn-holdout-quality`.

    Attributes:
        maximum_ratio: Per recipe, perplexity with hold-out over perplexity in full precision. Recipes
            without a limit are reported. Coarser blocks than 64x64 do not hold in the paper either.
    """

    maximum_ratio: dict[Annotated[str, AfterValidator(_is_recipe)], Ratio] = Field(
        default_factory=lambda: {"int4/16x16": 1.2, "int4/64x64": 1.2}
    )


class HoldoutBeatsPlainRtnLimits(Limits):
    """Limits of `holdout-beats-plain-rtn`.

    Attributes:
        minimum_gain: At the coarsest recipe, plain perplexity over hold-out perplexity must exceed this.
        maximum_harm: At every recipe, hold-out perplexity over plain perplexity must not exceed this.
    """

    minimum_gain: Ratio = 1.0
    maximum_harm: Ratio = 1.02


def _is_scheme(notation: str) -> str:
    try:
        return str(parse_scheme(notation))
    except PolicyError as error:
        raise ValueError(str(error)) from error


class ActivationHoldoutQualityLimits(Limits):
    """Limits of `activation-holdout-quality`.

    Attributes:
        maximum_ratio: Per scheme, perplexity with the super activation held out over perplexity in full
            precision. Schemes without a limit are reported. The paper's W8A8 stays below 1.04.
    """

    maximum_ratio: dict[Annotated[str, AfterValidator(_is_scheme)], Ratio] = Field(
        default_factory=lambda: {"w8a8": 1.05}
    )


class HoldoutClosesGapLimits(Limits):
    """Limits of `holdout-closes-gap`.

    Attributes:
        minimum_share: Part of the nats per token lost by quantizing activations naively that holding the super
            activation out saves. In the paper it is 0.09 (Llama-2-7B) to 0.84 (OLMo-1B); half of the least.
        minimum_harm: Naive perplexity over full precision, at least, or there is no gap worth closing. The
            paper's smallest is 1.013 (Mistral-7B).
    """

    minimum_share: Share = 0.05
    minimum_harm: float = Field(default=1.01, gt=1)
