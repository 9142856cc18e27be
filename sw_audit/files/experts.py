"""The experts of a mixture in a descendant's files: whether all of them were quantized as their siblings were.

An expert that calibration sent no token to has scales that nobody set, or weights that a method took for dead; one
that a library passed over stays as it was. Each is compared with its siblings: the same matrix of the others in
its layer.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder, one_line_damage
from sw_audit.checkpoint.formats.patterns import find_left_alone
from sw_audit.checkpoint.headers import FLOATS
from sw_audit.checkpoint.stored import StoredTensors, open_stored
from sw_audit.files.pairing import EXPERT, TensorPair, pair_tensors
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.experts import ComparedExperts, ExpertScale, SiblingExperts

# Where all experts of a layer are one tensor: as transformers fuses them, and in GGUF.
_FUSED = re.compile(r"\.experts\.|_exps\.")
_SCALES = (".input_scale", ".input_global_scale", ".act_scale")
_FAR = 1000.0
_WORST = 4


@dataclass
class _Group:
    """One matrix of each expert of a layer: errors and forms by the expert's number."""

    errors: dict[int, float | None] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)
    left_out: set[int] = field(default_factory=set)
    members: set[int] = field(default_factory=set)


def compare_experts(
    model: CheckpointFolder, parent: CheckpointFolder, progress: Progress = ignore_progress
) -> ComparedExperts:
    """Compare every expert of a descendant with its parent's, and with its siblings; a dense model is not read.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    for folder, which in ((model, "it"), (parent, "the parent")):
        if folder.format.find_base(folder) is not None:
            return ComparedExperts(
                because=f"{which} is an adapter, which leaves every tensor of its base as it is"
            )
    paired = pair_tensors(model, parent)
    pairs = [pair for pair in (*paired.pairs, *paired.extra) if _FUSED.search(pair.name)]
    with one_line_damage(model):
        stored = open_stored(model)
    patterns = model.format.list_patterns(model.quantization)
    groups, compared = defaultdict[str, _Group](_Group), 0
    for number, pair in enumerate(pairs, 1):
        for key, expert, error in _hold_against_parent(pair):
            group = groups[key]
            group.members.add(expert)
            if error is not _UNREAD:
                group.errors[expert], compared = error, compared + 1
            header = stored.headers.get(pair.name)
            if header is not None and header.dtype in FLOATS and EXPERT.search(pair.name):
                alone = find_left_alone(patterns, pair.name.removesuffix(".weight"))
                (group.plain if alone is None else group.left_out).add(expert)
        progress("comparing experts", number, len(pairs))
    siblings = tuple(_report(key, group) for key, group in groups.items())
    return ComparedExperts(
        experts=sum({_find_layer_key(key): len(group.members) for key, group in groups.items()}.values()),
        compared=compared,
        siblings=siblings,
        scales=tuple(_find_unlike_scales(stored)),
    )


_UNREAD = -1.0


def _find_layer_key(key: str) -> str:
    return _FUSED.split(key)[0]


def _hold_against_parent(pair: TensorPair) -> Iterator[tuple[str, int, float | None]]:
    """Yield, for each expert whose matrix a tensor holds, its siblings' name, its number and its error."""
    match = EXPERT.search(pair.name)
    ours, theirs = pair.ours(), pair.theirs() if pair.theirs else None
    whole = match is None
    key = pair.name if match is None else pair.name.replace(match[0], ".experts.*.")
    if ours is None:
        if match is not None:
            yield key, int(match[1]), _UNREAD
        return
    if ours.ndim != (3 if whole else 2):
        return  # a bias, or what is no matrix
    alike = theirs is not None and theirs.shape == ours.shape
    for expert, part in enumerate(ours if whole else ours[None]):
        error = (
            _measure_error(part, theirs[expert] if whole else theirs) if alike and theirs is not None else _UNREAD
        )
        yield key, expert if match is None else int(match[1]), error


def _measure_error(ours: Tensor, theirs: Tensor) -> float | None:
    """Return the norm of the difference over the norm of the parent's; `None` where it is not finite."""
    signal = float(theirs.double().square().sum())
    noise = float((ours.double() - theirs.double()).square().sum())
    ratio = (noise / signal) ** 0.5 if signal else (0.0 if not noise else float("inf"))
    return ratio if 0 <= ratio < float("inf") else None


def _report(key: str, group: _Group) -> SiblingExperts:
    coded = group.members - group.plain - group.left_out
    mixed = 2 * len(coded) > len(group.members)
    plain = group.plain if mixed else set[int]()
    judged = {expert: error for expert, error in group.errors.items() if not mixed or expert in coded}
    finite = [error for error in judged.values() if error is not None]
    ranked = sorted(judged, key=lambda expert: _rank(judged[expert]), reverse=True)
    return SiblingExperts(
        name=key,
        count=len(group.members),
        usual=statistics.median(finite) if finite else None,
        worst=tuple((expert, judged[expert]) for expert in ranked[:_WORST]),
        unquantized=tuple(sorted(plain)),
        left_out=tuple(sorted(group.left_out if mixed else ())),
    )


def _rank(error: float | None) -> float:
    return float("inf") if error is None else error


def _find_unlike_scales(stored: StoredTensors) -> Iterator[ExpertScale]:
    """Yield the scales of what enters an expert that are zero, not finite, or far from those of its siblings."""
    groups = defaultdict[str, dict[str, float]](dict)
    for name in stored.headers:
        if (match := EXPERT.search(name)) is not None and name.endswith(_SCALES):
            scale = stored.read(name)
            if scale is not None and scale.is_floating_point() and scale.numel():
                groups[name.replace(match[0], ".experts.*.")][name] = float(scale.float().abs().max())
    for scales in groups.values():
        usual = _find_usual(scales.values())
        for name, value in scales.items():
            finite = 0 <= value < float("inf")
            if usual is not None and not (finite and usual / _FAR <= value <= usual * _FAR):
                yield ExpertScale(name=name, value=value if finite else None, usual=usual)


def _find_usual(values: Iterable[float]) -> float | None:
    set_ones: Sequence[float] = [value for value in values if 0 < value < float("inf")]
    return statistics.median(set_ones) if set_ones else None
