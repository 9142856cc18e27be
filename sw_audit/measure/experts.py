"""Which experts of a mixture are tried: those that seem to matter, and controls that serve as many tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from random import Random

import numpy

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.routing import follow_routing
from sw_audit.policy.policy import Policy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.experts import ExpertAddress, ExpertStudy, Mark, TriedExpert
from sw_audit.record.location import Location

_SAMPLED_TOKENS = 2048
"""Experts are chosen on the first windows that hold so many tokens, or on the least that give an interval."""
_PERCENTILE, _TIMES = 99.5, 10.0

_Place = tuple[int, int]
"""Decoder layer, and number of the expert in it."""


def study_experts(
    checkpoint: Checkpoint, windows: Windows, location: Location, search: CriticalSearch | None, policy: Policy
) -> ExpertStudy | None:
    """Choose the experts of a mixture that are to be zeroed, and a control for each; a dense model has none.

    An expert is marked where it holds a located super weight or a critical scalar, or where it is a super expert
    by the criterion of Su et al. (2025, arXiv 2507.23279): the largest magnitude that leaves its down-projection
    is above the 99.5th percentile of all experts' and above a tenth of the largest, in a layer up to the last one
    that makes a super activation. Controls are drawn from experts without a mark that were routed at least as
    many tokens, in the same layer if there is one, in any else; if nowhere, it is the one with most tokens.

    One forward pass over some of the text.
    """
    experts = {(down.layer, number): down for down, number in _list_experts(checkpoint)}
    if not experts:
        return None
    length = windows.token_ids.shape[1]
    sample = windows.part(0, max(policy.minimum_windows, _SAMPLED_TOKENS // length))
    routing = follow_routing(checkpoint, sample)
    tokens = {(layer.layer, number): count for layer in routing for number, count in enumerate(layer.tokens)}
    peaks = {
        (layer.layer, number): peak
        for layer in routing
        for number, peak in enumerate(layer.peaks)
        if peak is not None
    }
    last = max((activation.first_layer for activation in location.super_activations), default=None)
    percentile = float(numpy.percentile([*peaks.values()], _PERCENTILE)) if peaks else None
    largest = max(peaks.values(), default=None)
    marks = defaultdict[_Place, list[Mark]](list)
    for place in _list_holding(experts, location):
        marks[place].append("super-weight")
    for place in _list_critical(checkpoint, search):
        marks[place].append("critical-scalar")
    for place, peak in peaks.items():
        reaches = percentile is not None and largest is not None and peak > max(percentile, largest / _TIMES)
        if reaches and (last is None or place[0] <= last):
            marks[place].append("output")
    # What is known to hold scalars that matter comes first, then the largest outputs.
    ranked = sorted(marks, key=lambda place: (marks[place] == ["output"], -peaks.get(place, 0.0)))
    tried = [place for place in ranked if place in tokens][: policy.experts.tried]
    unmarked = {place: count for place, count in tokens.items() if place not in marks}
    controls = _draw_controls(tried, unmarked, tokens, policy.seed)

    def describe(place: _Place) -> TriedExpert:
        down = experts[place]
        address = ExpertAddress(layer=place[0], number=place[1], parameter=down.parameter, expert=down.expert)
        return TriedExpert(
            address=address, marks=tuple(marks.get(place, ())), tokens=tokens[place], peak=peaks.get(place)
        )

    return ExpertStudy(
        experts=len(experts),
        windows=len(sample.token_ids),
        tokens=sample.token_ids.numel(),
        percentile=percentile,
        largest=largest,
        last_layer=last,
        marked=len(marks),
        tried=tuple(map(describe, (*tried, *controls))),
    )


def _list_holding(experts: Mapping[_Place, DownProjection], location: Location) -> Iterator[_Place]:
    held = {(weight.parameter, weight.expert) for weight in location.super_weights}
    return (place for place, down in experts.items() if (down.parameter, down.expert) in held)


def _list_critical(checkpoint: Checkpoint, search: CriticalSearch | None) -> set[_Place]:
    scalars = () if search is None else search.critical
    found = {(layer.index, _find_expert(one.address, layer)) for layer in checkpoint.layers for one in scalars}
    return {(layer, number) for layer, number in found if number is not None}


def _list_experts(checkpoint: Checkpoint) -> Iterator[tuple[DownProjection, int]]:
    for layer in checkpoint.layers:
        yield from zip(layer.experts, range(len(layer.experts)), strict=True)


def _find_expert(scalar: ScalarAddress, layer: DecoderLayer) -> int | None:
    """Return which of a layer's experts a scalar belongs to, be it in a matrix or a bias; `None` if to none."""
    names = {module: name for name, module in layer.module.named_modules(prefix=layer.name)}
    for number, down in enumerate(layer.experts):
        if down.fused is not None:
            if scalar.parameter.startswith(f"{down.fused.name}.") and scalar.index[0] == down.expert:
                return number
        elif down.expert_module is not None and scalar.parameter.startswith(f"{names[down.expert_module]}."):
            return number
    return None


def _draw_controls(
    tried: list[_Place],
    unmarked: Mapping[_Place, int],
    tokens: Mapping[_Place, int],
    seed: int,
) -> list[_Place]:
    """Draw a control for each expert that is tried, each another one, as far as there are some."""
    drawn: list[_Place] = []
    for layer, number in tried:
        left = {place: count for place, count in unmarked.items() if place not in drawn and count}
        enough = [place for place, count in left.items() if count >= tokens[layer, number]]
        pool = [place for place in enough if place[0] == layer] or enough
        if pool:
            chance = Random(f"{seed}/control-expert/{layer}/{number}")  # noqa: S311 - a reproducible draw
            drawn.append(chance.choice(pool))
        elif left:
            drawn.append(max(left, key=lambda place: left[place]))
    return drawn
