"""The parts of a set of super weights that are pruned on their own: alone, by row, by column, all but one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sw_audit.record.address import WeightAddress, list_addresses
from sw_audit.record.arm import Arm, Scale

SubsetKind = Literal["alone", "row", "column", "without"]
SUBSET_KINDS: tuple[SubsetKind, ...] = ("alone", "row", "column", "without")


@dataclass(frozen=True)
class Subset:
    """Some of the located scalars.

    Attributes:
        kind: `alone` (one scalar), `row` (all on one residual channel, whatever the layer), `column` (all fed
            by one neuron of one down-projection), `without` (all but one).
        number: Counts from 1 within the kind; with `alone` and `without` it is the scalar's place in the set.
        members: The scalars, in the order of the set.
    """

    kind: SubsetKind
    number: int
    members: tuple[WeightAddress, ...]

    @property
    def name(self) -> str:
        """Name of the arm that prunes it, such as `alone/2`."""
        return f"{self.kind}/{self.number}"


def list_subsets(super_weights: Sequence[WeightAddress]) -> tuple[Subset, ...]:
    """List the proper parts of a set that say who is responsible; a set of one has none.

    Rows and columns count where they hold more than one scalar and not all. Two parts of different kinds can
    hold the same scalars: of two scalars, the set without the first is the second alone.

    Args:
        super_weights: The located set.
    """
    scalars = tuple(super_weights)
    if len(scalars) < 2:
        return ()
    parts: dict[SubsetKind, list[tuple[WeightAddress, ...]]] = {
        "alone": [(scalar,) for scalar in scalars],
        "row": _gather((scalar.row, scalar) for scalar in scalars),
        "column": _gather(((scalar.parameter, scalar.expert, scalar.column), scalar) for scalar in scalars),
        "without": [tuple(other for other in scalars if other != scalar) for scalar in scalars],
    }
    grouped = {"row", "column"}
    return tuple(
        Subset(kind, number, members)
        for kind in SUBSET_KINDS
        for number, members in enumerate(
            (part for part in parts[kind] if kind not in grouped or 1 < len(part) < len(scalars)), 1
        )
    )


def list_pruned(arm: Arm) -> frozenset[WeightAddress] | None:
    """Return the scalars that an arm prunes, if that is all it does."""
    if len(arm.acts) != 1 or not isinstance(act := arm.acts[0], Scale) or act.factor != 0:
        return None
    return frozenset(list_addresses(act.addresses))


def _gather(keyed: Iterable[tuple[Hashable, WeightAddress]]) -> list[tuple[WeightAddress, ...]]:
    gathered: dict[Hashable, list[WeightAddress]] = defaultdict(list)
    for key, address in keyed:
        gathered[key].append(address)
    return [tuple(members) for members in gathered.values()]
