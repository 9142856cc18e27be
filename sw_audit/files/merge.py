"""The merge of an adapter into its base, replayed from files: `W + scale * B @ A` for each module it is put on.

The product is made in float32. Whether its sum with the weight was rounded once, or both before, is not known, so
a tensor may be either, bit for bit. One that is neither is held against the merge in double precision: libraries
that multiply in another order are off by units in the last place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.adapters import Change, find_obstacle, read_adapter
from sw_audit.checkpoint.digest import hold_the_same
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.checkpoint.names import match_names
from sw_audit.errors import CheckpointError
from sw_audit.files.pairing import TensorPair, pair_tensors
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.checkpoint import LISTED
from sw_audit.record.files import ReplayedMerge, ReplayedTensor, Uncompared


def replay_merge(
    model: CheckpointFolder, parent: CheckpointFolder, progress: Progress = ignore_progress
) -> ReplayedMerge:
    """Merge the adapter that the policy names into the parent, and compare what comes of it with the model.

    LoRA with its ranks, scales and patterns, trained embeddings, modules that are saved whole, and DoRA.

    Raises:
        CheckpointError: If the adapter is not there or cannot be read.
    """
    named = model.policy.adapter or ""
    adapter = CheckpointFolder.require(ModelPolicy(source=named))
    if not adapter.holds(ADAPTER_CONFIG):
        found, remedy = f"there is no {ADAPTER_CONFIG} in it", "name the folder of a LoRA adapter in `adapter`"
        raise CheckpointError(adapter.asked, found, remedy)
    settings = adapter.read_json(ADAPTER_CONFIG)
    if (obstacle := _find_obstacle(settings, model, parent)) is not None:
        return ReplayedMerge(adapter=named, compared=0, obstacle=obstacle)
    base = _find_other_base(adapter, parent)
    changes, paired = read_adapter(adapter), pair_tensors(model, parent)
    placed = {ours: name for name, ours in match_names(changes.targets, [pair.name for pair in paired.pairs])}
    unplaced = sorted(set(changes.targets).difference(placed.values()))
    compared, equal, touched, left_out = 0, 0, 0, defaultdict[str, list[str]](list)
    off: list[ReplayedTensor] = []
    for number, pair in enumerate(paired.pairs, 1):
        progress("replaying the merge", number, len(paired.pairs))
        ours, theirs = pair.ours(), pair.theirs() if pair.theirs else None
        if ours is None or theirs is None:
            left_out["its codes cannot be read from files"].append(pair.name)
            continue
        compared += 1
        target = placed.get(pair.name)
        touched += target is not None
        change = None if target is None else changes.find_change(target)
        replayed = _replay(pair, ours, theirs, change)
        equal += replayed is None
        off += [] if replayed is None else [replayed]
    if paired.extra or paired.missing:
        left_out["only one of the two has them"] += [*(pair.name for pair in paired.extra), *paired.missing]
    return ReplayedMerge(
        adapter=named,
        compared=compared,
        touched=touched,
        equal=equal,
        tensors=tuple(_list_worst(off)),
        strays=sum(not one.touched for one in off),
        unplaced=tuple(unplaced),
        uncompared=tuple(
            Uncompared(because=because, count=len(names), first=names[0]) for because, names in left_out.items()
        ),
        base=base,
    )


def _find_other_base(adapter: CheckpointFolder, parent: CheckpointFolder) -> str | None:
    """Find what an adapter names as its base, if that is here and is not the parent by its files."""
    try:
        base = adapter.format.find_base(adapter)
        folder = None if base is None else CheckpointFolder.find(base, fetch=False)
        same = folder is None or hold_the_same(folder.weight_files, parent.weight_files)
    except CheckpointError:  # it is not here, and nobody asks for it
        return None
    return None if same or base is None else base.source


def _find_obstacle(settings: Mapping[str, Any], model: CheckpointFolder, parent: CheckpointFolder) -> str | None:
    """Say why the merge cannot be done again, if it cannot."""
    if (obstacle := find_obstacle(settings)) is not None:
        return obstacle
    for folder, which in ((model, "the model"), (parent, "the parent")):
        if folder.quantization or folder.format.find_base(folder) is not None:
            return f"{which} is stored as {folder.format.method}, and no merge can be held against it bit for bit"
    return None


def _replay(pair: TensorPair, ours: Tensor, theirs: Tensor, change: Change | None) -> ReplayedTensor | None:
    """Hold one tensor against what the merge gives; `None` if it is that bit for bit."""
    touched = change is not None
    compute = change or Change()
    made = compute.apply(theirs.float())
    if made.shape != ours.shape:
        return ReplayedTensor(name=pair.name, touched=touched, ulps=None)
    if any(torch.equal(ours, one) for one in _round(made, theirs, ours.dtype)):
        return None
    made, bound = compute.apply(theirs.double()), compute.bound(theirs.double())
    kind = torch.finfo(ours.dtype)
    steps = torch.exp2(bound.clamp_min(kind.tiny).log2().floor()) * kind.eps
    farthest = float(((ours.double() - made).abs() / steps).max())
    ulps = farthest if math.isfinite(farthest) else None
    replayed = ReplayedTensor(name=pair.name, touched=touched, ulps=ulps)
    if change is None or theirs.shape != made.shape:
        return replayed
    # Rounding loses what is below half a unit, in the merge that is done again as well.
    base = theirs.to(ours.dtype).double()
    moved, meant = ours.double() - base, made.to(ours.dtype).double() - base
    square = float(meant.square().sum())
    if not square or not math.isfinite(square):
        return replayed
    applied = float((moved * meant).sum()) / square
    rest = float((moved - applied * meant).square().mean())
    return replayed.model_copy(update={"applied": applied, "uncertain": math.sqrt(rest / square)})


def _round(made: Tensor, theirs: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield what may have been made of a sum in a dtype: it was rounded once, or its parts before."""
    yield made.to(dtype)
    if made.shape == theirs.shape:
        change, weight = made - theirs.float(), theirs.to(dtype)
        yield weight + change.to(dtype)
        yield (weight.float() + change).to(dtype)


def _list_worst(off: Sequence[ReplayedTensor]) -> Iterator[ReplayedTensor]:
    """Yield the tensors that are farthest off, by each of the ways to be off."""
    far = sorted((one for one in off if one.touched), key=lambda one: -(one.ulps or math.inf))
    scaled = sorted((one for one in off if one.applied is not None), key=lambda one: -abs((one.applied or 0) - 1))
    strays = sorted((one for one in off if not one.touched), key=lambda one: -(one.ulps or math.inf))
    yield from dict.fromkeys([*far[:LISTED], *scaled[:LISTED], *strays[:LISTED]])
