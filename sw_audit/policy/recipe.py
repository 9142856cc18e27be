"""How a weight matrix is rounded: levels, granularity, symmetry, clipping."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from sw_audit.errors import PolicyError
from sw_audit.fact import Fact
from sw_audit.policy.clip import Clip, read_clip

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


class PerGroup(Fact):
    """One scale per group of `size` input channels of one row; a row's last group may be smaller."""

    kind: Literal["group"] = "group"
    size: Size

    def __str__(self) -> str:
        return f"group{self.size}"


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


Granularity = Annotated[PerTensor | PerRow | PerGroup | PerBlock | PerRun, Field(discriminator="kind")]


_NOTATION = (
    "int4/tensor, int4/row, nf4/group64, int4/64x64 or int4/run16384, with /symmetric and a clip as wanted "
    "(/z9, /z9-signed, /p99.9, /iqr3, each also as /z9-tensor; /search, /search-corpus)"
)
_LEVELS = re.compile(r"int(?P<int>[2-8])|nf(?P<nf>[34])")
_GRANULARITY = re.compile(
    r"(?P<tensor>tensor)|(?P<row>row)|group(?P<group>\d+)|(?P<rows>\d+)x(?P<columns>\d+)|run(?P<run>\d+)"
)


class Recipe(Fact):
    """A way to round a matrix to a grid of levels and back (round-to-nearest).

    Attributes:
        bits: 2 to 8; normal floats have 3 or 4.
        levels: `integer`: evenly spaced; `normal-float`: QLoRA's, between -1 and 1 times the group's largest |w|.
        granularity: What shares one scale.
        symmetric: Whether there is no zero point: integers are centred on zero; normal floats always are so.
        clip: How outliers are clipped before the range is taken.
    """

    bits: int = Field(ge=2, le=8)
    levels: Literal["integer", "normal-float"] = "integer"
    granularity: Granularity
    symmetric: bool = False
    clip: Clip | None = None

    @model_validator(mode="before")
    @classmethod
    def _normal_floats_are_symmetric(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("levels") == "normal-float":
            return {"symmetric": True, **data}
        return data

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.levels == "normal-float" and self.bits not in (3, 4):
            raise ValueError(f"there are normal floats of 3 and 4 bits, not of {self.bits}")
        if self.levels == "normal-float" and not self.symmetric:
            raise ValueError("normal floats have no zero point: they are always symmetric")
        return self

    def __str__(self) -> str:
        return self._write(str(self.granularity))

    @property
    def family(self) -> str:
        """Its notation without what shares one scale, such as `int4/symmetric`."""
        return self._write()

    def _write(self, *granularity: str) -> str:
        parts = [f"{'int' if self.levels == 'integer' else 'nf'}{self.bits}", *granularity]
        parts += ["symmetric"] if self.symmetric and self.levels == "integer" else []
        parts += [str(self.clip)] if self.clip else []
        return "/".join(parts)


def parse_recipe(notation: str) -> Recipe:
    """Read a recipe from its notation; `str(recipe)` writes it.

    Args:
        notation: Such as `int4/512x512`, `int8/row/symmetric`, `nf4/group64`, `int4/tensor/z9`.

    Raises:
        PolicyError: If the notation is not understood, or makes no sense.
    """
    asked, remedy = f"recipe {notation!r}", f"write it like {_NOTATION}"
    head, *rest = notation.strip().lower().split("/")
    levels = _LEVELS.fullmatch(head)
    granularity = _GRANULARITY.fullmatch(rest[0]) if rest else None
    if levels is None or granularity is None:
        raise PolicyError(asked, "this is not a recipe", remedy)
    symmetric = False
    clip: Clip | None = None
    try:
        for word in rest[1:]:
            found = read_clip(word)
            if word == "symmetric" and levels["nf"]:
                raise ValueError("normal floats are always symmetric, so it goes without saying")
            if (word == "symmetric" and symmetric) or (found and clip):
                raise ValueError(f"{word!r} is one too many")
            if word != "symmetric" and found is None:
                raise ValueError(f"{word!r} is neither `symmetric` nor a clip")
            symmetric, clip = symmetric or word == "symmetric", found or clip
        return Recipe(
            bits=int(levels["int"] or levels["nf"]),
            levels="normal-float" if levels["nf"] else "integer",
            granularity=_read_granularity(granularity),
            symmetric=symmetric or bool(levels["nf"]),
            clip=clip,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PolicyError(asked, f"{field}: {first['msg']}", remedy) from error
    except ValueError as error:
        raise PolicyError(asked, str(error), remedy) from error


def _read_granularity(match: re.Match[str]) -> PerTensor | PerRow | PerGroup | PerBlock | PerRun:
    if match["tensor"]:
        return PerTensor()
    if match["row"]:
        return PerRow()
    if match["group"]:
        return PerGroup(size=int(match["group"]))
    if match["run"]:
        return PerRun(size=int(match["run"]))
    return PerBlock(rows=int(match["rows"]), columns=int(match["columns"]))
