"""Made-up pictures of a model: where its super activation is, and what is around its super weight."""

from __future__ import annotations

from sw_audit.record.address import WeightAddress
from sw_audit.record.maps import ActivationMap, Neighbourhood


def make_map(spike: float | None = 412.5, after: float | None = 6.0) -> ActivationMap:
    """Return eight layers of three tokens: 2 everywhere, but at the first token from layer 1 on."""
    sides = [tuple((value if layer else 2.0, 2.0, 2.0) for layer in range(8)) for value in (spike, after)]
    return ActivationMap(tokens=("<s>", " the", "\n"), layers=tuple(range(8)), before=sides[0], after=sides[1])


def make_neighbourhood(
    address: WeightAddress, layer: int, value: float | None, *, rank: int | None = 1
) -> Neighbourhood:
    """Return two rows of two columns from a scalar on: it, -0.5 below it, and 0.25 elsewhere."""
    return Neighbourhood(
        address=address,
        layer=layer,
        rows=128,
        columns=344,
        rank=rank,
        first_row=address.row,
        first_column=address.column,
        values=((value, 0.25), (-0.5, 0.25)),
    )
