"""How a weight matrix is rounded (levels, granularity, symmetry, clipping), and what that costs in storage."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from statistics import NormalDist
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from sw_audit.errors import PolicyError
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
        on: `corpus`: an error counts as much as the input that its weight multiplies, on calibration text, or
            on the locating prompt where there is none (`weigh_columns`); `weights`: every error counts alike.
    """

    kind: Literal["search"] = "search"
    on: Literal["weights", "corpus"] = "corpus"

    def __str__(self) -> str:
        return "search" if self.on == "corpus" else "search-weights"


AnyClip: TypeAlias = ZScoreClip | PercentileClip | IqrClip | SearchClip
Clip = Annotated[AnyClip, Field(discriminator="kind")]

_NUMBER = r"(\d+(?:\.\d+)?)"
_Z_SCORE = re.compile(rf"z{_NUMBER}(-signed)?(-tensor)?")
_PERCENTILE = re.compile(rf"p{_NUMBER}(-tensor)?")
_IQR = re.compile(rf"iqr{_NUMBER}(-tensor)?")
# `search-corpus` is what `search` was called before.
_SEARCH = re.compile(r"search(-weights|-corpus)?")


def read_clip(notation: str) -> AnyClip | None:
    """Read a clip from its notation, such as `z9`, `z3-signed-tensor`, `p99.9`, `iqr3`, `search`.

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
        return SearchClip(on="weights" if match[1] == "-weights" else "corpus")
    return None


def _read_scope(mark: str | None) -> Scope:
    return "tensor" if mark else "group"


def _write_scope(scope: Scope) -> str:
    return "-tensor" if scope == "tensor" else ""


def _write(number: float) -> str:
    # All digits and no exponent, so that it reads back as the same number.
    return f"{Decimal(repr(number)).normalize():f}"


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
    "(/z9, /z9-signed, /p99.9, /iqr3, each also as /z9-tensor; /search, /search-weights)"
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
    def weighs_columns(self) -> bool:
        """Whether errors count by what each column multiplies, so that some text must be seen first."""
        return self.clip == SearchClip(on="corpus")

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

    Such as `int4/512x512`, `int8/row/symmetric`, `nf4/group64`, `int4/tensor/z9`.

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
            other = read_clip(word)
            if word == "symmetric" and levels["nf"]:
                raise ValueError("normal floats are always symmetric, so it goes without saying")
            if (word == "symmetric" and symmetric) or (other and clip):
                raise ValueError(f"{word!r} is one too many")
            if word != "symmetric" and other is None:
                raise ValueError(f"{word!r} is neither `symmetric` nor a clip")
            symmetric, clip = symmetric or word == "symmetric", other or clip
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


SCALE_BITS = 16
ZERO_POINT_BITS = 16
HELD_VALUE_BITS = 16

Survivors = Literal["all", "largest", "ends", "none"]


def count_groups(recipe: Recipe, shape: tuple[int, int]) -> int:
    """Return into how many scaling groups a recipe cuts a matrix of (out, in); ragged last ones count as whole."""
    rows, columns = shape
    if not rows * columns:
        return 0
    match recipe.granularity:
        case PerRow():
            return rows
        case PerGroup(size=size):
            return rows * math.ceil(columns / size)
        case PerBlock(rows=height, columns=width):
            return math.ceil(rows / height) * math.ceil(columns / width)
        case PerRun(size=size):
            return math.ceil(rows * columns / size)
        case _:
            return 1


def count_bits(recipe: Recipe, shape: tuple[int, int], held: int = 0) -> float:
    """Return how many bits a matrix takes when it is stored under a recipe.

    Per weight its code, the held-out ones' included, since a dense matrix of codes has no gaps. Per scaling group
    a scale of 16 bits and, where the grid is an asymmetric one, its lower end of 16 bits. Per held-out weight its
    value of 16 bits and its place in the flattened matrix, in as many whole bits as the last place needs. What a
    clip learned is in the scale. The code book of normal floats is one for all matrices and not counted. Arms
    compute with float32 scales; that a file would round them to 16 bits is not simulated. For bits per weight
    divide the sum over matrices, of shape (out, in), by the sum of their weights.
    """
    weights = shape[0] * shape[1]
    group = SCALE_BITS + (0 if recipe.symmetric else ZERO_POINT_BITS)
    place = max(weights - 1, 0).bit_length()
    return float(recipe.bits * weights + group * count_groups(recipe, shape) + held * (HELD_VALUE_BITS + place))


def find_survivors(recipe: Recipe) -> Survivors:
    """Tell which weights plain rounding gives back as they were, whatever the weights are.

    Where a weight survives plain rounding, writing its original value back after rounding changes nothing.
    Hold-out in that weak sense, with ranges that were taken over the weight all the same, is a no-op by
    construction for the largest weight of a group, and that is what a super weight is. Hold-out as it is done here
    is not: the weight is out of the range too, so its neighbours are rounded otherwise (but in groups of one).

    Returns:
        `all`: every group is one weight. `largest`: of each group the weights of largest magnitude (the outermost
        levels of symmetric integers and of normal floats are at plus and minus that). `ends`: of each group the
        smallest and the largest weight. `none`: a clip or a search may cut off any weight. Survival is but for
        rounding errors of the computation.
    """
    if count_groups(recipe, (1, 2)) == 2 and count_groups(recipe, (2, 1)) == 2:
        return "all"
    if recipe.clip is not None:
        return "none"
    return "largest" if recipe.symmetric else "ends"


def explain_holdout(recipe: Recipe) -> str:
    """Say in a sentence what holding out the largest weight of a scaling group changes under a recipe."""
    match find_survivors(recipe):
        case "all":
            return "Every weight has a scale of its own and stays as it is: holding any out changes nothing."
        case "none":
            return (
                "A weight that is held out keeps its value, which clipping may cut off, and has no say in where "
                "its group is clipped; its neighbours change with that."
            )
        case survivors:
            end = "the end" if survivors == "largest" else "an end"
            return (
                f"The largest weight of a group is {end} of its range, so it keeps its value, held out or not; "
                "held out, it does not widen the range, and its neighbours are rounded in smaller steps."
            )


# Dettmers et al. 2023 (QLoRA), appendix E, as published: float32 values of the construction below.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def construct_levels(bits: int) -> tuple[float, ...]:
    """Construct the normal-float levels of so many bits (Dettmers et al. 2023, section 3 and appendix E).

    Quantiles of the standard normal distribution at evenly spaced probabilities, from `offset` down to one half: 2
    ** (bits - 1) positive levels, one fewer negative ones made likewise, and zero; all divided by the largest.
    With n = 2 ** bits levels `offset` is 1 - (1 / (2 n) + 1 / (2 (n - 1))) / 2: the mean of the two ends that
    would leave half a level's probability outside with n and with n - 1 levels. They go from -1 to 1, ascending;
    there are at least 2 bits.
    """
    count = 2**bits
    offset = 1 - (1 / (2 * count) + 1 / (2 * (count - 1))) / 2
    positive = _place_quantiles(offset, count // 2)
    negative = _place_quantiles(offset, count // 2 - 1)
    largest = max(positive)
    # Each side ends in 1: both begin at the same quantile.
    return tuple(
        sorted([-level / largest for level in negative] + [0.0] + [level / largest for level in positive])
    )


def find_levels(bits: int) -> tuple[float, ...]:
    """Return the normal-float levels of so many bits: for 4 the published code book, for 3 the construction.

    Raises:
        KeyError: If there is no normal float of so many bits.
    """
    return {3: construct_levels(3), 4: NF4}[bits]


def _place_quantiles(offset: float, count: int) -> list[float]:
    return [NormalDist().inv_cdf(offset + (0.5 - offset) * place / count) for place in range(count)]
