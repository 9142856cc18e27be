"""The tensors of a descendant beside its parent's: whether each is where it was, and what became of its rows.

Both checkpoints are read once, tensor by tensor. Of each tensor a sketch stays, its numbers at random places that
are the same for every tensor of its size, and says which others to read again.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from sw_audit.checkpoint.digest import hold_the_same
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.files.configuration import read_configuration
from sw_audit.files.likeness import (
    SHORT,
    SOUGHT,
    Lines,
    as_matrix,
    find_doubles,
    is_level,
    is_rescaled,
    is_rotated,
    measure_likeness,
    seek_rows,
    take_cosine,
    take_distance,
)
from sw_audit.files.pairing import PairedTensors, Read, TensorPair, find_layer, pair_tensors
from sw_audit.files.tokenization import find_tokenizer, list_common_words, read_tokenizer
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.checkpoint import LISTED
from sw_audit.record.files import ChangedTensor, ComparedTensors, TensorChange, Uncompared

_SKETCH = 1024
_NAMED = 8
# A matrix is another's where its cosine with that falls short of 1 by so much less than with its own. Noise of
# compression brings it no nearer to another, however alike the two are in the parent.
_NEARER, _SKETCHED_NEARER, _ALIKE = 0.7, 0.85, 0.5
# Gains of all layers are alike, and training moves them together: a vector has to be this much nearer to another.
_MUCH_NEARER = 0.2
_FOREIGN, _NEGATED = 0.3, -0.8
# Rounding to 2 bits leaves more than that of a matrix; where most others have kept that much, it was not training.
_APART, _NEAR = 0.8, 0.95
# Rounding and training leave a matrix its size; what is folded into matrices changes those of all layers alike.
_SCALED, _FEW = 1.4, 0.5
# Where so many matrices are rotated, others may be rotated on both sides, which cannot be told from noise.
_MOSTLY_ROTATED = 0.25
# Gains that are gone from a norm are found again in the columns of a matrix that follows.
_FOLDED = 0.99


@dataclass
class _Sketches:
    """Sketches of all tensors of one shape, by what they are called, float32 [numbers] each."""

    ours: dict[str, Tensor] = field(default_factory=dict)
    theirs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Found:
    """What has been found so far; `own` is the cosine of each matrix with its own, or the distance of a vector.

    `factors` are what a matrix's own in the parent is multiplied by to come nearest to it. `doubled` are, of a
    matrix with a row for each token, how many there are, and those that are bit for bit another's.
    """

    compared: int = 0
    equal: int = 0
    rotated: int = 0
    changed: list[ChangedTensor] = field(default_factory=list)
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    own: dict[str, float] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    rescaled: list[str] = field(default_factory=list)
    doubled: dict[str, tuple[int, dict[int, int]]] = field(default_factory=dict)
    vectors: set[str] = field(default_factory=set)
    level: list[TensorPair] = field(default_factory=list)
    sketches: defaultdict[tuple[int, ...], _Sketches] = field(default_factory=lambda: defaultdict(_Sketches))


def compare_tensors(
    model: CheckpointFolder, parent: CheckpointFolder, progress: Progress = ignore_progress
) -> ComparedTensors:
    """Compare every tensor of a descendant with its parent's.

    A matrix is found to be another's, or its own transposed or turned, where it is nearer to that than to its own;
    a vector only where it is much nearer. Rows and columns that became zero, one number, another row or the
    negative of what they were are found where they are large enough to be told from rounding. Matrices that were
    multiplied by an orthogonal one (QuaRot, SpinQuant), and norms whose gain went into the matrices after them,
    are the parent's.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    for folder, which in ((model, "it"), (parent, "the parent")):
        if (base := folder.format.find_base(folder)) is None:
            continue
        below = CheckpointFolder.require(base)
        if folder is model and not hold_the_same(below.weight_files, parent.weight_files):
            compared = compare_tensors(below, parent, progress)
            return compared.model_copy(update={"base": base.source})
        because = f"{which} is an adapter, which leaves every tensor of its base as it is"
        return ComparedTensors(compared=0, uncompared=(Uncompared(because=because, count=1, first=""),))
    paired, found = pair_tensors(model, parent), _Found()
    for number, pair in enumerate(paired.pairs, 1):
        _compare(pair, found)
        progress("comparing tensors", number, len(paired.pairs))
    _sketch_others(paired, found)
    pairs = {pair.name: pair for pair in (*paired.pairs, *paired.extra)}
    displaced = _find_displaced(pairs, paired, found)
    found.changed += _name_displaced(displaced, pairs)
    _explain_foreign(pairs, {one.name for one in displaced}, found)
    found.changed += _list_levelled(pairs, found)
    found.changed += _list_scaled(paired, found)
    found.changed += _list_missing(paired, found)
    found.changed += _list_doubled(model, parent, found)
    return _report(found)


def _compare(pair: TensorPair, found: _Found) -> None:
    ours, theirs = pair.ours(), pair.theirs() if pair.theirs else None
    if ours is None or theirs is None:
        found.left_out[f"{'its' if ours is None else 'the parent'} codes cannot be read from files here"].append(
            pair.name
        )
        return
    if ours.shape != theirs.shape:
        if ours.ndim == 2 and ours.T.shape == theirs.shape and take_cosine(ours.T, theirs) > _ALIKE:
            found.compared += 1
            found.changed.append(ChangedTensor(name=pair.name, change="transposed"))
            return
        if find_layer(pair.name) is not None or ours.shape[1:] != theirs.shape[1:]:
            words = f"the shapes differ, such as {list(ours.shape)} for {list(theirs.shape)}"
            found.left_out["its shape is another than the parent's"].append(f"{pair.name}: {words}")
            return
        # A vocabulary that grew, or was padded.
        rows = min(len(ours), len(theirs))
        ours, theirs = ours[:rows], theirs[:rows]
    found.compared += 1
    sketches = found.sketches[tuple(ours.shape)]
    sketches.theirs[pair.parent] = _sketch(theirs)
    if ours.dtype == theirs.dtype and torch.equal(ours, theirs):
        found.equal += 1
        return
    sketches.ours[pair.name] = _sketch(ours)
    if ours.ndim < 2:
        found.own[pair.name] = take_distance(ours, theirs)
        found.vectors.add(pair.name)
        _compare_vectors(pair, ours, theirs, found)
    else:
        found.changed += _compare_matrices(pair, as_matrix(ours), as_matrix(theirs), found)


def _compare_vectors(pair: TensorPair, ours: Tensor, theirs: Tensor, found: _Found) -> None:
    if ours.numel() < SHORT:
        return
    if is_level(ours) and not is_level(theirs):
        found.level.append(pair)
    cosine = take_cosine(ours, theirs)
    if cosine < _NEGATED:
        found.changed.append(ChangedTensor(name=pair.name, change="negated", own=cosine))
    # A distance within what the narrower of the two dtypes rounds away says nothing.
    if found.own[pair.name] <= max(torch.finfo(one.dtype).eps for one in (ours, theirs)):
        del found.own[pair.name]


def _compare_matrices(pair: TensorPair, ours: Tensor, theirs: Tensor, found: _Found) -> Iterator[ChangedTensor]:
    """Yield what became of a matrix's rows and columns."""
    alike = measure_likeness(ours, theirs)
    found.own[pair.name] = cosine = alike.cosine
    if cosine < _NEGATED:
        yield ChangedTensor(name=pair.name, change="negated", own=cosine)
        return
    if find_layer(pair.name) is None:
        if doubles := find_doubles(ours, theirs, alike.rows):
            found.doubled[pair.name] = len(ours), doubles
    elif cosine > _ALIKE and is_rescaled(ours, theirs):
        found.rescaled.append(pair.name)
    if cosine > _NEAR:
        found.factors[pair.name] = float(alike.rows.products.sum() / alike.rows.theirs.sum())
    for lines, axis in ((alike.rows, "rows"), (alike.columns, "columns")):
        make = ChangedTensor(name=pair.name, change="zeroed", axis=axis, own=cosine, of=len(lines.ours))
        if lines.zeroed.any():
            # Methods that calibrate (GPTQ, SparseGPT, Wanda) zero inputs that the calibration never saw.
            serious = axis == "rows" or not lines.coarse
            yield _name_lines(make.model_copy(update={"serious": serious}), lines.zeroed)
        if cosine > _FOREIGN and lines.flipped.any():
            yield _name_lines(make.model_copy(update={"change": "flipped"}), lines.flipped)
        mine, parents = (ours, theirs) if axis == "rows" else (ours.T, theirs.T)
        level = lines.level & _list_level(lines, mine, parents)
        if level.any():
            yield _name_lines(make.model_copy(update={"change": "repeated"}), level)
        if (strange := lines.strange & ~level).any():
            yield from _find_exchanged(make, mine, parents, strange)


def _list_level(lines: Lines, mine: Tensor, parents: Tensor) -> Tensor:
    level = torch.zeros(len(mine), dtype=torch.bool)
    for row in lines.level.nonzero().flatten().tolist():
        level[row] = is_level(mine[row]) and not is_level(parents[row])
    return level


def _find_exchanged(
    make: ChangedTensor, mine: Tensor, parents: Tensor, strange: Tensor
) -> Iterator[ChangedTensor]:
    sought = strange.nonzero().flatten()
    elsewhere = seek_rows(mine, parents, sought)
    # Many rows that resemble one of the parent's have that direction in common, as after a rotation.
    places = {place for place, _ in elsewhere.values()}
    few = (make.own or 0.0) <= _FOREIGN and 2 * len(elsewhere) < min(len(sought), SOUGHT)
    if few or 2 * len(places) < len(elsewhere):
        return
    if find_layer(make.name) is None:
        # A token that is new in use may begin as a copy of another's row; two that changed places are a mistake.
        elsewhere = {row: place for row, place in elsewhere.items() if strange[place[0]]}
    if elsewhere:
        where, cosine = next(iter(elsewhere.values()))
        named = _name_lines(make, torch.tensor(list(elsewhere)), mask=False)
        update = {"change": "exchanged", "nearest": str(where), "other": cosine}
        yield named.model_copy(update=update)


def _name_lines(make: ChangedTensor, lines: Tensor, *, mask: bool = True) -> ChangedTensor:
    indices = (lines.nonzero().flatten() if mask else lines).tolist()
    return make.model_copy(update={"indices": tuple(indices[:_NAMED]), "count": len(indices)})


def _sketch(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers at places that are the same for all of its size, float32."""
    if tensor.numel() <= _SKETCH:
        return tensor.flatten().float()
    return tensor.flatten()[_choose_places(tensor.numel())].float()


@cache
def _choose_places(size: int) -> Tensor:
    return torch.randint(size, (_SKETCH,), generator=torch.Generator().manual_seed(0))


def _sketch_others(paired: PairedTensors, found: _Found) -> None:
    """Sketch what only one of the two has, where that is a layer's: another may have come in its place."""
    for name, read in paired.missing.items():
        if find_layer(name) is not None and (tensor := read()) is not None:
            found.sketches[tuple(tensor.shape)].theirs[name] = _sketch(tensor)
    for pair in paired.extra:
        if find_layer(pair.name) is not None and (tensor := pair.ours()) is not None and tensor.ndim > 1:
            found.sketches[tuple(tensor.shape)].ours[pair.name] = _sketch(tensor)
            found.own[pair.name] = 0.0


@dataclass(frozen=True)
class _Displaced:
    name: str
    nearest: str
    own: float
    other: float


def _find_displaced(pairs: dict[str, TensorPair], paired: PairedTensors, found: _Found) -> list[_Displaced]:
    """Find the tensors that are nearer to another of the parent's, by sketch, and look at both again."""
    readers: dict[str, Read] = dict(paired.missing)
    readers |= {pair.parent: pair.theirs for pair in paired.pairs if pair.theirs is not None}
    displaced = []
    for shape, sketches in found.sketches.items():
        names = list(sketches.theirs)
        asked = {name: sketch for name, sketch in sketches.ours.items() if name in found.own}
        if not asked or (len(names) < 2 and not paired.extra):
            continue
        others = torch.stack(list(sketches.theirs.values()))  # [tensors, numbers]
        for name, sketch in asked.items():
            own = names.index(pairs[name].parent) if pairs[name].parent in names else None
            apart = _hold_apart(sketch, others, vectors=len(shape) < 2)
            limit = _SKETCHED_NEARER * (1.0 if own is None else float(apart[own]))
            if own is not None:
                apart[own] = float("inf")
            nearest = int(apart.argmin())
            if not float(apart[nearest]) < limit:
                continue
            if (one := _verify(pairs[name], names[nearest], readers, found.own[name])) is not None:
                displaced.append(one)
    return displaced


def _hold_apart(sketch: Tensor, others: Tensor, *, vectors: bool) -> Tensor:
    """Return how far a sketch is from others, [tensors]: relative distance of vectors, else 1 less the cosine."""
    tiny = torch.finfo(torch.float32).tiny
    sizes: Tensor = others.norm(dim=1).clamp_min(tiny)
    apart: Tensor = (others - sketch).norm(dim=1) / sizes
    return apart if vectors else 1 - others @ sketch / (sizes * sketch.norm().clamp_min(tiny))


def _verify(pair: TensorPair, nearest: str, readers: dict[str, Read], own: float) -> _Displaced | None:
    ours, theirs = pair.ours(), readers[nearest]()
    if ours is None or theirs is None:
        return None
    if ours.ndim < 2:
        apart = take_distance(ours, theirs)
        clear = apart < _MUCH_NEARER * own and not is_level(ours)
        return _Displaced(pair.name, nearest, 1 - own, 1 - apart) if clear else None
    rows = min(len(ours), len(theirs))
    cosine = take_cosine(ours[:rows], theirs[:rows])
    clear = cosine > _ALIKE and 1 - cosine < _NEARER * (1 - own)
    return _Displaced(pair.name, nearest, own, cosine) if clear else None


def _name_displaced(displaced: list[_Displaced], pairs: dict[str, TensorPair]) -> Iterator[ChangedTensor]:
    went = {pairs[one.name].parent: one.nearest for one in displaced}
    there = {pair.parent for pair in pairs.values()}
    for one in displaced:
        change: TensorChange = "copied"
        if went.get(one.nearest) == pairs[one.name].parent:
            change = "swapped"
        elif one.nearest in went or one.nearest not in there:
            change = "moved"
        yield ChangedTensor(name=one.name, change=change, nearest=one.nearest, own=one.own, other=one.other)


def _explain_foreign(pairs: dict[str, TensorPair], displaced: set[str], found: _Found) -> None:
    """Look again at matrices that are neither like their own nor another's."""
    known = displaced | {one.name for one in found.changed if one.change in ("exchanged", "negated")}
    unrelated = []
    own = {name: cosine for name, cosine in found.own.items() if name not in found.vectors}
    median = statistics.median([*own.values(), *[1.0] * found.equal, 1.0])
    for name, cosine in own.items():
        pair = pairs[name]
        apart = cosine < _APART and median > _NEAR and find_layer(name) is not None
        if name in known or pair.theirs is None or (cosine > _FOREIGN and not apart):
            continue
        ours, theirs = pair.ours(), pair.theirs()
        if ours is None or theirs is None or ours.ndim < 2 or ours.numel() < SHORT**2:
            continue
        rows = min(len(ours), len(theirs))
        ours, theirs = as_matrix(ours[:rows]), as_matrix(theirs[:rows])
        made = ChangedTensor(name=name, change="unrelated", own=cosine)
        if not theirs.any():
            continue
        if cosine > _FOREIGN:
            # What was pruned is its own where it is not zero.
            if take_cosine(ours, theirs * (ours != 0)) < _NEAR:
                found.changed.append(made.model_copy(update={"change": "apart"}))
            continue
        if ours.shape == theirs.T.shape and (other := take_cosine(ours.T, theirs)) > _ALIKE:
            found.changed.append(made.model_copy(update={"change": "transposed", "other": other}))
        elif (other := take_cosine(ours.flip(0, 1), theirs)) > _ALIKE:
            found.changed.append(made.model_copy(update={"change": "turned", "other": other}))
        elif is_rotated(ours, theirs):
            found.rotated += 1
        else:
            unrelated.append(made)
    if found.rotated > _MOSTLY_ROTATED * (found.rotated + len(unrelated)):
        found.left_out["the model is rotated, and these may be so on both sides"] += [
            one.name for one in unrelated
        ]
    else:
        found.changed += unrelated


def _list_levelled(pairs: dict[str, TensorPair], found: _Found) -> Iterator[ChangedTensor]:
    """Yield the vectors that hold one number now, unless their gain went into matrices of the same layer."""
    for pair in found.level:
        gain = pair.theirs() if pair.theirs else None
        if gain is None or found.rotated:
            continue
        layer = find_layer(pair.name)
        following = [
            other
            for other in pairs.values()
            if find_layer(other.name) == layer and other.theirs is not None and other.name in found.own
        ]
        folded = any(_is_folded(other, gain.double()) for other in following)
        yield ChangedTensor(name=pair.name, change="constant", serious=not folded)


def _list_scaled(paired: PairedTensors, found: _Found) -> Iterator[ChangedTensor]:
    """Yield the matrices of few layers that are their own times a number, or by blocks times many."""
    layers = Counter(_leave_out_layer(pair.name) for pair in paired.pairs)
    scaled = {name: one for name, one in found.factors.items() if not 1 / _SCALED < one < _SCALED}
    together = Counter(map(_leave_out_layer, {*scaled, *found.rescaled}))
    for name, factor in scaled.items():
        part = _leave_out_layer(name)
        if find_layer(name) is not None and together[part] < _FEW * layers[part]:
            yield ChangedTensor(name=name, change="scaled", own=found.own[name], other=factor)
    known = {one.name for one in found.changed} | set(scaled)
    for name in found.rescaled:
        part = _leave_out_layer(name)
        if name not in known and together[part] < _FEW * layers[part]:
            yield ChangedTensor(name=name, change="rescaled", own=found.own[name])


def _leave_out_layer(name: str) -> str:
    layer = find_layer(name)
    return name if layer is None else name.replace(f".{layer}.", ".", 1)


def _is_folded(pair: TensorPair, gain: Tensor) -> bool:
    ours, theirs = pair.ours(), pair.theirs() if pair.theirs else None
    if (
        ours is None
        or theirs is None
        or ours.ndim != 2
        or ours.shape != theirs.shape
        or ours.shape[1] != len(gain)
    ):
        return False
    columns = measure_likeness(ours, theirs).columns
    ratio = (columns.ours / columns.theirs.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    centred = [part - part.mean() for part in (ratio, gain.abs())]
    return take_cosine(*centred) > _FOLDED


def _list_missing(paired: PairedTensors, found: _Found) -> Iterator[ChangedTensor]:
    """Yield layers of the parent that the descendant has not; list what else only one of the two has."""
    layers = {find_layer(pair.name) for pair in (*paired.pairs, *paired.extra)}
    gone = Counter(find_layer(name) for name in paired.missing)
    for name in paired.missing:
        if (layer := find_layer(name)) is not None and layer not in layers and layers != {None}:
            if count := gone.pop(layer, 0):
                whole = name[: name.index(f".{layer}.") + len(f".{layer}")]
                yield ChangedTensor(name=whole, change="missing", count=count, of=count)
        else:
            found.left_out["the descendant has none of that name"].append(name)
    displaced = {one.name for one in found.changed}
    others = [pair.name for pair in paired.extra if pair.name not in displaced]
    if others:
        found.left_out["the parent has none of that name"] += others


def _list_doubled(model: CheckpointFolder, parent: CheckpointFolder, found: _Found) -> Iterator[ChangedTensor]:
    """Yield where words that mean what they meant have the row of another; a new token may begin so."""
    if not found.doubled:
        return
    try:
        sides = [
            read_tokenizer(find_tokenizer(folder), said.metadata, said.rows)
            for folder in (model, parent)
            for said in [read_configuration(folder)]
        ]
    except CheckpointError:  # which comparing the settings tells
        return
    words = list_common_words(*sides)
    for name, (rows, doubles) in found.doubled.items():
        if taken := {row: place for row, place in doubles.items() if row in words}:
            made = ChangedTensor(name=name, change="doubled", axis="rows", of=rows, own=found.own.get(name))
            nearest = str(next(iter(taken.values())))
            yield _name_lines(made, torch.tensor(list(taken)), mask=False).model_copy(update={"nearest": nearest})


def _report(found: _Found) -> ComparedTensors:
    changed = sorted(found.changed, key=lambda one: (not one.serious, one.change, -one.count / one.of))
    kept, listed = Counter[TensorChange](), list[ChangedTensor]()
    for one in changed:
        kept[one.change] += 1
        if kept[one.change] <= LISTED:
            listed.append(one)
    return ComparedTensors(
        compared=found.compared,
        equal=found.equal,
        rotated=found.rotated,
        changed=tuple(listed),
        counts=dict(Counter(one.change for one in changed if one.serious)),
        uncompared=tuple(
            Uncompared(because=because, count=len(names), first=names[0])
            for because, names in found.left_out.items()
            if names
        ),
    )
