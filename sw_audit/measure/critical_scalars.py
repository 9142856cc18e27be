"""What a model kept of the critical scalars of another, its parent or a baseline, and the arms that mend it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sw_audit.checkpoint.effective import FLOATING_DTYPES
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import ModelParameter, name_parameters
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import RESTORED_SCALARS, Arm, RestoredScalars, SetScalars
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import RetainedScalar
from sw_audit.record.location import Location

RESTORED_ALONE = 4
"""So many of the scalars that were not kept are put back one by one, those that cost most."""


def list_bearing(search: CriticalSearch, location: Location) -> dict[ScalarAddress, float]:
    """Return the scalars that matter, with what the layers apply, then located ones that are not inert."""
    values = {one.address: one.value if one.applied is None else one.applied for one in search.critical}
    for weight in location.super_weights:
        if weight.impact != "inert":
            values.setdefault(weight.scalar, weight.value)
    return values


@torch.no_grad()
def read_critical_scalars(
    checkpoint: Checkpoint, search: CriticalSearch, location: Location, parent: Checkpoint | None = None
) -> tuple[RetainedScalar, ...]:
    """Read the critical scalars of another model in this one, of any format, as it computes with them.

    Args:
        checkpoint: The model.
        search: What was found in the other.
        location: Where the other's super weights are.
        parent: The other, where it is at hand: then parameters may have other names here, and those that it ties
            and this model does not are each read.
    """
    ours, theirs = name_parameters(checkpoint), name_parameters(parent) if parent else {}
    return tuple(
        _read_scalar(checkpoint, ours.get(here), here, address, theirs.get(address.parameter), value)
        for first, value in list_bearing(search, location).items()
        for address, here in _find_names(first, theirs, parent, checkpoint, ours)
    )


def restore_scalars(
    parent: Checkpoint, descendant: Checkpoint, scalars: Sequence[RetainedScalar], limit: float
) -> tuple[Arm, ...]:
    """Return the arms in which scalars that are off by more than a limit are the parent's: each, then all of them.

    Where several are off, the first few are put back one by one. What cannot be read cannot be put back.

    Args:
        parent: The parent.
        descendant: The descendant.
        scalars: The parent's scalars, there and here, those that cost most first.
        limit: Largest relative error.
    """
    ours, theirs = name_parameters(descendant), name_parameters(parent)
    mended: dict[ScalarAddress, tuple[ScalarAddress, float]] = {}  # where it is here, and what is stored
    for scalar in scalars:
        error = scalar.relative_error
        kept = scalar.finite if error is None else abs(error) <= limit
        named = dict(_find_names(scalar.address, theirs, parent, descendant, ours))
        parameter = ours.get(named.get(scalar.address, ""))
        if not kept and parameter is not None:
            here = ScalarAddress(parameter=parameter.name, index=scalar.address.index)
            mended[scalar.address] = here, scalar.parent - parameter.offset
    arms = [
        Arm(purpose=RestoredScalars(scalar=address), acts=(SetScalars(scalars=(here,), values=(value,)),))
        for address, (here, value) in list(mended.items())[:RESTORED_ALONE]
    ]
    if mended:
        places, values = zip(*mended.values(), strict=True)
        arms.append(Arm(purpose=RESTORED_SCALARS, acts=(SetScalars(scalars=places, values=values),)))
    return tuple(arms)


def _find_names(
    address: ScalarAddress,
    theirs: Mapping[str, ModelParameter],
    parent: Checkpoint | None,
    descendant: Checkpoint,
    ours: Mapping[str, ModelParameter],
) -> Iterator[tuple[ScalarAddress, str]]:
    """Yield a scalar by its name in the parent, and its parameter's name here; of tied ones each that is apart."""
    tied = theirs.get(address.parameter)
    seen = set[int]()
    for name in (address.parameter, *(tied.names if tied else ())):
        here = name if parent is None else _rename(name, parent, descendant)
        if id(ours.get(here)) not in seen:
            yield ScalarAddress(parameter=name, index=address.index), here
        seen.add(id(ours.get(here)))


def _rename(name: str, parent: Checkpoint, descendant: Checkpoint) -> str:
    """Return what a parameter of the parent is called where something wraps the model, or no longer does."""
    for theirs, ours in zip(parent.layers, descendant.layers, strict=False):
        if name.startswith(f"{theirs.name}."):
            return ours.name + name.removeprefix(theirs.name)
    outer = [model.layers[0].name.split(".") for model in (parent, descendant)]
    while all(outer) and outer[0][-1] == outer[1][-1]:
        outer = [path[:-1] for path in outer]
    before, after = outer
    path = name.split(".")
    return ".".join([*after, *path[len(before) :]]) if path[: len(before)] == before else name


def _read_scalar(
    checkpoint: Checkpoint,
    ours: ModelParameter | None,
    name: str,
    address: ScalarAddress,
    theirs: ModelParameter | None,
    value: float,
) -> RetainedScalar:
    unread = RetainedScalar(address=address, parent=value, value=None)
    if ours is None:
        here = _read_beside_packed(checkpoint, name, address)
    else:
        alike = theirs is None or _is_alike(theirs, ours)
        inside = len(address.index) == len(ours.shape) and all(map(int.__lt__, address.index, ours.shape))
        here = ours.read(address.index) + ours.offset if alike and inside else None
    if here is None:
        return unread
    finite = math.isfinite(here)
    return unread.model_copy(update={"value": here if finite else None, "finite": finite})


def _is_alike(theirs: ModelParameter, ours: ModelParameter) -> bool:
    """Whether an index means the same in both: embeddings may have got more tokens, else shapes are the same."""
    if ours.layer is None and len(ours.shape) > 1:
        return theirs.shape[1:] == ours.shape[1:]
    return theirs.shape == ours.shape


def _read_beside_packed(checkpoint: Checkpoint, name: str, address: ScalarAddress) -> float | None:
    """Read a bias of a module that keeps its matrix packed, however it holds it; `None` if that is none."""
    path, _, last = name.rpartition(".")
    if last != "bias" or path not in dict(checkpoint.model.named_modules()):
        return None
    bias = getattr(checkpoint.model.get_submodule(path), last, None)
    if not isinstance(bias, Tensor) or bias.dtype not in FLOATING_DTYPES or len(address.index) != bias.ndim:
        return None
    return float(bias[address.index]) if address.index[0] < len(bias) else None
