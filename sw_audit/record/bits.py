"""The bits of scalars that matter: where each is stored, and what becomes of scalar and model if it flips."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.printable import printable_json
from sw_audit.record.address import Index, ScalarAddress
from sw_audit.record.critical import Effect

BitPart = Literal["number", "code", "scale", "block scale", "minimum", "zero point", "block"]
BitKind = Literal["sign", "exponent", "mantissa", "integer"]


class FlippedBit(Fact):
    """One bit of a file, and what flipping it does.

    Attributes:
        scalar: Whose bit it is.
        tensor: The tensor in the file.
        dtype: As the file names it, `BF16` or `Q4_1`.
        file: Name of the file.
        offset: Of the byte in the file, from its beginning.
        bit: In the byte, 0 is the lowest.
        part: What it belongs to: a `number` stored as it is, the scalar's `code`, or what it shares with others:
            `scale`, `minimum`, `zero point`, `block scale` of a part of a block, `block` where that is not known.
        kind: `sign`, `exponent` or `mantissa` of a floating number, else `integer`.
        place: Which bit of that number, or of the word that holds a code, 0 is the lowest; `None` in a block whose
            codes are packed otherwise.
        byte: The byte as it is stored.
        before: The scalar as the model has it.
        after: The scalar with the bit flipped; `None` if it is not finite.
        changed: How many scalars of the model change.
        finite: Whether all of these stay finite.
        effect: Perplexity with the bit flipped over perplexity without; `None` where it was not measured: a scalar
            is not finite, or too many change.
    """

    scalar: ScalarAddress
    tensor: str
    dtype: str
    file: str
    offset: Index
    bit: Annotated[int, Field(ge=0, le=7)]
    part: BitPart
    kind: BitKind
    place: Index | None = None
    byte: Annotated[int, Field(ge=0, le=255)]
    before: float
    after: float | None
    changed: Index
    finite: bool = True
    effect: Effect | None = None

    @property
    def byte_after(self) -> int:
        """The byte with the bit flipped."""
        return self.byte ^ (1 << self.bit)

    @property
    def destroys(self) -> bool:
        """Whether a scalar, or the model's perplexity, is not finite with it."""
        return not self.finite or (self.effect is not None and self.effect.ratio is None)

    @property
    def damage(self) -> float | None:
        """How many times the perplexity; `None` if it is not finite, or was not measured."""
        return None if self.effect is None else self.effect.ratio


class UnplacedScalar(Fact):
    """A scalar of which it is not known where it is stored, and why."""

    scalar: ScalarAddress
    because: str


class BitSheet(Fact):
    """Every bit of some scalars, and of what they are decoded with.

    Attributes:
        model: What was asked for.
        scalars: Which scalars, most costly first.
        bits: Worst first: what is not finite, then by perplexity, last what was not measured.
        unplaced: Of which nothing is told.
        text: What the text is called.
        own_text: Whether the model wrote it.
        window: Tokens in each window.
        windows: How many windows the worst were measured on.
        confidence: Of all intervals together.
        questions: How many different changes were measured.
        tokens: Tokens that were run for them.
        notes: What a reader should know.
    """

    model: str
    scalars: tuple[ScalarAddress, ...]
    bits: tuple[FlippedBit, ...]
    unplaced: tuple[UnplacedScalar, ...] = ()
    text: str
    own_text: bool = False
    window: Index
    windows: Index
    confidence: float
    questions: Index = 0
    tokens: Index = 0
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """How many bits of how many scalars, in words."""
        destroying = sum(bit.destroys for bit in self.bits)
        placed = len(self.scalars) - len(self.unplaced)
        said = f"{len(self.bits)} bits of {placed} scalar{'' if placed == 1 else 's'}"
        return f"{said}: {destroying} leave nothing finite" if destroying else said


def rank_bits(bits: tuple[FlippedBit, ...]) -> tuple[FlippedBit, ...]:
    """Return bits with the worst first; what is equal stays in its order."""
    return tuple(sorted(bits, key=lambda bit: (not bit.destroys, bit.damage is None, -(bit.damage or 0.0))))


def describe_bits(sheet: BitSheet) -> str:
    """Put a sheet into the JSON object that other programs read."""
    content: dict[str, Any] = {"schema": 1, **sheet.model_dump(mode="json")}
    return printable_json(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)) + "\n"
