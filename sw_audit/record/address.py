"""Where a scalar weight is, and what a located one is like."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from sw_audit.errors import PolicyError
from sw_audit.fact import Fact

Index = Annotated[int, Field(ge=0)]


class WeightAddress(Fact):
    """One scalar of a weight matrix `W` in `y = W @ x`.

    Rows are output channels and columns input channels, counted from 0, whatever the layout on disk:
    a Conv1D matrix, stored (in, out), is addressed transposed.

    Attributes:
        parameter: Qualified name of the parameter, such as `model.layers.2.mlp.down_proj.weight`.
        row: Output channel.
        column: Input channel.
        expert: Index of the expert where experts are fused into one parameter.
    """

    parameter: str
    row: Index
    column: Index
    expert: Index | None = None

    def __str__(self) -> str:
        expert = "" if self.expert is None else f"expert {self.expert}, "
        return f"{self.parameter}[{expert}{self.row}, {self.column}]"

    @property
    def scalar(self) -> ScalarAddress:
        """The same as the address of a scalar of any parameter."""
        expert = () if self.expert is None else (self.expert,)
        return ScalarAddress(parameter=self.parameter, index=(*expert, self.row, self.column))


class ScalarAddress(Fact):
    """One scalar of any parameter.

    Attributes:
        parameter: Qualified name of the parameter, such as `model.norm.weight`.
        index: One to three numbers, counted from 0: of a decoder matrix row (output channel) and column (input
            channel), whatever the layout on disk, of fused experts the expert before them; else as stored.
    """

    parameter: str
    index: tuple[Index, ...] = Field(min_length=1, max_length=3)

    def __str__(self) -> str:
        return f"{self.parameter}[{', '.join(map(str, self.index))}]"


_SCALAR = re.compile(r"(?P<name>[^\[\]\s]+)\s*\[\s*(?P<index>\d+(?:\s*,\s*\d+){0,2})\s*\]")


def parse_scalar(notation: str) -> ScalarAddress:
    """Read the address of a scalar of any parameter from its notation, such as `model.norm.weight[17]`.

    Raises:
        PolicyError: If the notation is not understood.
    """
    match = _SCALAR.fullmatch(notation.strip())
    if match is None:
        remedy = "write it like model.norm.weight[17], or [row, column] of a matrix"
        raise PolicyError(f"scalar {notation!r}", "this is no address of a scalar", remedy)
    return ScalarAddress(parameter=match["name"], index=tuple(map(int, match["index"].split(","))))


class AddressGroup(Fact):
    """Scalars of one parameter, written compactly: `rows[i], columns[i]` is one address.

    Attributes:
        parameter: Qualified name of the parameter.
        rows: Output channels.
        columns: Input channels, as many as rows.
        expert: Index of the expert where experts are fused into one parameter.
    """

    parameter: str
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]
    expert: Index | None = None

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.rows) != len(self.columns):
            raise ValueError(f"{len(self.rows)} rows but {len(self.columns)} columns")
        return self

    def __len__(self) -> int:
        return len(self.rows)


_ADDRESS = re.compile(
    r"(?P<name>[^\[\]\s]+)\s*\[(?:expert\s+(?P<expert>\d+)\s*,)?\s*(?P<row>\d+)\s*,\s*(?P<column>\d+)\s*\]"
)


def parse_address(notation: str) -> WeightAddress:
    """Read an address from its notation; `str(address)` writes it.

    Such as `model.layers.2.mlp.down_proj.weight[3968, 7003]`, or `...[expert 3, 5, 7]`.

    Raises:
        PolicyError: If the notation is not understood.
    """
    match = _ADDRESS.fullmatch(notation.strip())
    if match is None:
        remedy = (
            "write it like model.layers.2.mlp.down_proj.weight[3968, 7003]: row (output channel) before column"
        )
        raise PolicyError(f"address {notation!r}", "this is no address of a weight", remedy)
    expert = match["expert"]
    return WeightAddress(
        parameter=match["name"],
        row=int(match["row"]),
        column=int(match["column"]),
        expert=None if expert is None else int(expert),
    )


def group_addresses(addresses: Iterable[WeightAddress]) -> tuple[AddressGroup, ...]:
    """Group addresses by parameter and expert; order within and between groups is kept."""
    pairs: dict[tuple[str, int | None], list[tuple[int, int]]] = defaultdict(list)
    for address in addresses:
        pairs[address.parameter, address.expert].append((address.row, address.column))
    return tuple(
        AddressGroup(
            parameter=parameter,
            expert=expert,
            rows=tuple(row for row, _ in scalars),
            columns=tuple(column for _, column in scalars),
        )
        for (parameter, expert), scalars in pairs.items()
    )


def list_addresses(groups: Iterable[AddressGroup]) -> tuple[WeightAddress, ...]:
    """Undo `group_addresses`."""
    return tuple(
        WeightAddress(parameter=group.parameter, row=row, column=column, expert=group.expert)
        for group in groups
        for row, column in zip(group.rows, group.columns, strict=True)
    )
