"""Where outliers are clipped before a range is taken."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from sw_audit.fact import Fact

Scope = Literal["group", "tensor"]


class ZScoreClip(Fact):
    """Clip to the mean and so many standard deviations.

    Attributes:
        z: Number of standard deviations. The paper's released scripts use 9 (Llama) and 11 (Mistral).
        of: `magnitude`: to mean(|w|) + z * std(|w|) on both sides, as the paper's released code does; `signed`: to
            mean(w) -+ z * std(w), as the paper describes it (Yu et al. 2024, section 4.2).
        scope: Whether each scaling group has its own mean and deviation, or the matrix one.
    """

    kind: Literal["z-score"] = "z-score"
    z: float = Field(gt=0)
    of: Literal["magnitude", "signed"] = "magnitude"
    scope: Scope = "group"

    def __str__(self) -> str:
        return f"z{_write(self.z)}{'-signed' if self.of == 'signed' else ''}{_write_scope(self.scope)}"


class PercentileClip(Fact):
    """Clip to a percentile of |w| on both sides.

    The percentile is the smallest |w| that at least so many percent are not larger than; it is not interpolated.

    Attributes:
        percent: Such as 99.9, which clips one weight in a thousand.
        scope: Whether each scaling group has its own, or the matrix one.
    """

    kind: Literal["percentile"] = "percentile"
    percent: float = Field(gt=0, lt=100)
    scope: Scope = "group"

    def __str__(self) -> str:
        return f"p{_write(self.percent)}{_write_scope(self.scope)}"


class IqrClip(Fact):
    """Clip to Tukey's fences: so many interquartile ranges below the lower and above the upper quartile of w.

    Attributes:
        factor: Number of interquartile ranges; 1.5 and 3 are usual.
        scope: Whether each scaling group has its own quartiles, or the matrix one.
    """

    kind: Literal["iqr"] = "iqr"
    factor: float = Field(gt=0)
    scope: Scope = "group"

    def __str__(self) -> str:
        return f"iqr{_write(self.factor)}{_write_scope(self.scope)}"


class SearchClip(Fact):
    """Clip each scaling group to the part of its largest |w| that gives the smallest sum of squared errors.

    Attributes:
        on: `weights`: every error counts alike (no data); `corpus`: an error counts as much as the mean square of
            the input that its weight multiplies, on calibration text.
    """

    kind: Literal["search"] = "search"
    on: Literal["weights", "corpus"] = "weights"

    def __str__(self) -> str:
        return "search-corpus" if self.on == "corpus" else "search"


AnyClip: TypeAlias = ZScoreClip | PercentileClip | IqrClip | SearchClip
Clip = Annotated[AnyClip, Field(discriminator="kind")]

_NUMBER = r"(\d+(?:\.\d+)?)"
_Z_SCORE = re.compile(rf"z{_NUMBER}(-signed)?(-tensor)?")
_PERCENTILE = re.compile(rf"p{_NUMBER}(-tensor)?")
_IQR = re.compile(rf"iqr{_NUMBER}(-tensor)?")
_SEARCH = re.compile(r"search(-corpus)?")


def read_clip(notation: str) -> AnyClip | None:
    """Read a clip from its notation, such as `z9`, `z3-signed-tensor`, `p99.9`, `iqr3`, `search-corpus`.

    Returns:
        `None` if it is none.

    Raises:
        ValueError: If it is one with an impossible number.
    """
    if match := _Z_SCORE.fullmatch(notation):
        return ZScoreClip(z=float(match[1]), of="signed" if match[2] else "magnitude", scope=_read_scope(match[3]))
    if match := _PERCENTILE.fullmatch(notation):
        return PercentileClip(percent=float(match[1]), scope=_read_scope(match[2]))
    if match := _IQR.fullmatch(notation):
        return IqrClip(factor=float(match[1]), scope=_read_scope(match[2]))
    if match := _SEARCH.fullmatch(notation):
        return SearchClip(on="corpus" if match[1] else "weights")
    return None


def _read_scope(mark: str | None) -> Scope:
    return "tensor" if mark else "group"


def _write_scope(scope: Scope) -> str:
    return "-tensor" if scope == "tensor" else ""


def _write(number: float) -> str:
    # All digits and no exponent, so that it reads back as the same number.
    return f"{Decimal(repr(number)).normalize():f}"
