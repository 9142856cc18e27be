"""How a weight matrix is rounded: bits, granularity, symmetry, clipping."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from sw_audit.errors import PolicyError
from sw_audit.facts.fact import Fact

Size = Annotated[int, Field(ge=1)]


class PerTensor(Fact):
    """One scale for the whole matrix."""

    kind: Literal["tensor"] = "tensor"

    def __str__(self) -> str:
        return "tensor"


class PerRow(Fact):
    """One scale per output channel."""

    kind: Literal["row"] = "row"

    def __str__(self) -> str:
        return "row"


class PerBlock(Fact):
    """One scale per block of `rows x columns`; the last blocks of a matrix may be smaller."""

    kind: Literal["block"] = "block"
    rows: Size
    columns: Size

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


class PerRun(Fact):
    """One scale per run of `size` weights of the flattened matrix, as the paper's released code does."""

    kind: Literal["run"] = "run"
    size: Size

    def __str__(self) -> str:
        return f"run{self.size}"


Granularity = Annotated[PerTensor | PerRow | PerBlock | PerRun, Field(discriminator="kind")]


class ZScoreClip(Fact):
    """Clip each scaling group to mean(|w|) + z * std(|w|), as the paper's released code does.

    Attributes:
        z: Number of standard deviations. The released scripts use 9 (Llama) and 11 (Mistral).
    """

    kind: Literal["z-score"] = "z-score"
    z: float = Field(gt=0)

    def __str__(self) -> str:
        # All digits and no exponent, so that it reads back as the same number.
        return f"z{Decimal(repr(self.z)).normalize():f}"


_NOTATION = "int4/tensor, int4/row, int4/64x64, int4/run16384, each with /symmetric and /z9 as wanted"
_GRANULARITY = re.compile(r"(?P<tensor>tensor)|(?P<row>row)|(?P<rows>\d+)x(?P<columns>\d+)|run(?P<run>\d+)")


class Recipe(Fact):
    """A way to round a matrix to integers and back (round-to-nearest).

    Attributes:
        bits: 2 to 8.
        granularity: What shares one scale.
        symmetric: Whether the grid is centred on zero (no zero point).
        clip: How outliers are clipped before the range is taken.
    """

    bits: int = Field(ge=2, le=8)
    granularity: Granularity
    symmetric: bool = False
    clip: ZScoreClip | None = None

    def __str__(self) -> str:
        parts = [f"int{self.bits}", str(self.granularity)]
        parts += ["symmetric"] if self.symmetric else []
        parts += [str(self.clip)] if self.clip else []
        return "/".join(parts)


def parse_recipe(notation: str) -> Recipe:
    """Read a recipe from its notation; `str(recipe)` writes it.

    Args:
        notation: Such as `int4/512x512`, `int8/row/symmetric`, `int4/tensor/z9`.

    Raises:
        PolicyError: If the notation is not understood.
    """
    head, *rest = notation.strip().lower().split("/")
    bits = re.fullmatch(r"int([2-8])", head)
    granularity = _GRANULARITY.fullmatch(rest[0]) if rest else None
    extras = rest[1:]
    symmetric = "symmetric" in extras
    clips = [match for extra in extras if (match := re.fullmatch(r"z(\d+(?:\.\d+)?)", extra))]
    understood = len(extras) == symmetric + len(clips) and len(clips) <= 1
    if bits is None or granularity is None or not understood:
        raise PolicyError(f"recipe {notation!r}", "this is not a recipe", f"write it like {_NOTATION}")
    try:
        return Recipe(
            bits=int(bits[1]),
            granularity=_read_granularity(granularity),
            symmetric=symmetric,
            clip=ZScoreClip(z=float(clips[0][1])) if clips else None,
        )
    except ValueError as error:
        raise PolicyError(f"recipe {notation!r}", str(error), f"write it like {_NOTATION}") from error


def _read_granularity(match: re.Match[str]) -> PerTensor | PerRow | PerBlock | PerRun:
    if match["tensor"]:
        return PerTensor()
    if match["row"]:
        return PerRow()
    if match["run"]:
        return PerRun(size=int(match["run"]))
    return PerBlock(rows=int(match["rows"]), columns=int(match["columns"]))
