"""What can be seen at a glance: activations by layer and token, and the weights around a super weight."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index, WeightAddress

Magnitudes = tuple[tuple[float | None, ...], ...]


class ActivationMap(Fact):
    """The largest magnitude of the residual stream by layer and token, on the locating prompt.

    Attributes:
        tokens: Each token as text, or its number; of a long prompt those around the super activation.
        first_token: Position of the first of them in the prompt.
        layers: The decoder layers that are shown; of very many some are left out.
        before: Per layer and token the largest magnitude, over channels, of the layer's output: of the model as it
            is, or of a parent; `None` where it is not finite.
        after: Likewise with the super weights zeroed, or of a descendant.
    """

    tokens: tuple[str, ...] = Field(min_length=1)
    first_token: Index = 0
    layers: tuple[Index, ...] = Field(min_length=1)
    before: Magnitudes
    after: Magnitudes

    @model_validator(mode="after")
    def _has_every_cell(self) -> Self:
        for side in (self.before, self.after):
            if len(side) != len(self.layers) or any(len(row) != len(self.tokens) for row in side):
                raise ValueError(f"not {len(self.layers)} layers of {len(self.tokens)} tokens each")
        return self


class Neighbourhood(Fact):
    """The part of a matrix around one of its scalars, as the model computes with it: of a packed one dequantized.

    Attributes:
        address: The scalar.
        layer: Decoder layer.
        rows: How many rows (output channels) the matrix has.
        columns: How many columns (input channels).
        rank: Place of the scalar in the matrix by magnitude, 1 is the largest; `None` if it is not finite.
        first_row: The first row that is shown.
        first_column: The first column.
        values: What is shown, row by row; `None` where it is not finite.
    """

    address: WeightAddress
    layer: Index
    rows: Index
    columns: Index
    rank: int | None = Field(default=None, ge=1)
    first_row: Index
    first_column: Index
    values: tuple[tuple[float | None, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _holds_the_scalar(self) -> Self:
        row, column = self.address.row - self.first_row, self.address.column - self.first_column
        if not (0 <= row < len(self.values) and 0 <= column < len(self.values[row])):
            raise ValueError(f"{self.address} is not among the values from {self.first_row}, {self.first_column}")
        if any(len(one) != len(self.values[0]) for one in self.values):
            raise ValueError("rows of different lengths")
        return self
