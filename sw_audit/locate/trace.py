"""Follows the residual stream through the layers: which (token, channel) appears early and persists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings
from sw_audit.record.location import LayerTrace, SuperActivation


@dataclass(frozen=True)
class Standing:
    """How far every entry of the residual stream stands out.

    Attributes:
        typical: Per layer, the median magnitude of its output, [layers].
        standout: Magnitude over that median, or over the median of its own token's entries where that is
            larger: a hot neuron lifts all channels of one token, and then none of them stands out for that.
            [layers, tokens, hidden].
    """

    typical: Tensor
    standout: Tensor


def measure_standing(probe: Probe) -> Standing:
    """Hold every entry of the residual stream against the median magnitude of its layer and of its token."""
    magnitude = probe.residual.abs()
    typical = magnitude.flatten(1).median(1).values  # [layers]
    beside = magnitude.median(2).values  # [layers, tokens]
    floor = torch.finfo(torch.float32).tiny
    scale = torch.maximum(beside, typical[:, None]).clamp_min(floor)  # [layers, tokens]
    return Standing(typical, magnitude / scale[:, :, None])


def find_span(probe: Probe, settings: LocatorSettings) -> tuple[int, int]:
    """Return first and last of the layers in which every super activation must stand.

    It must have appeared by the first of them. The last two layers are never among them where there are more:
    there the stream is made ready for the head, and the largest spikes of all have no successor to act on. Where
    only the early layers ran, the last `early_beyond` of those are the proof, and it stands before them.
    """
    layers, seen = probe.layers, len(probe.residual)
    if seen < layers:
        return max(0, seen - 1 - settings.early_beyond), seen - 1
    first = _count_early(layers, settings.early) - 1
    return first, max(first, min(math.floor(settings.late * (layers - 1)), layers - 3))


def count_early_layers(layers: int, settings: LocatorSettings) -> int:
    """Count the layers, from the first, that have to run where only the early ones do.

    Of a shallow model at least the first three can hold a cause: most published ones sit in layer 1 or 2.
    """
    return min(layers, max(_count_early(layers, settings.early_reading), 3 + settings.early_beyond))


def _count_early(layers: int, part: float) -> int:
    return max(1, math.ceil(part * layers))


def find_super_activations(probe: Probe, settings: LocatorSettings) -> tuple[SuperActivation, ...]:
    """Find the entries of the residual stream that a super activation could be.

    An entry (token, channel) counts if it stands out in a run of layers that begins early and ends late, keeps
    its sign there, and stays within a factor of its median over the layers that every run includes.

    Args:
        probe: One forward pass.
        settings: The thresholds.

    Returns:
        Largest magnitude first; a channel may be there at several tokens.
    """
    standout = measure_standing(probe).standout
    first, last = find_span(probe, settings)
    places = (standout[first : last + 1] >= settings.standout).all(0).nonzero()  # [entries, 2]
    found = []
    for token, channel in places.tolist():
        values = probe.residual[:, token, channel]
        level = float(values[first : last + 1].median())
        ratio = values / level
        near = (ratio >= 1 / settings.constancy) & (ratio <= settings.constancy)
        persists = (near & (standout[:, token, channel] >= settings.standout)).tolist()
        if all(persists[first : last + 1]):
            begin = 1 + max((layer for layer in range(first) if not persists[layer]), default=-1)
            end = min(
                (layer for layer in range(last, len(persists)) if not persists[layer]), default=len(persists)
            )
            found.append(
                SuperActivation(channel=channel, token=token, value=level, first_layer=begin, last_layer=end - 1)
            )
    return tuple(sorted(found, key=lambda one: -abs(one.value)))


def trace_layers(probe: Probe) -> tuple[LayerTrace, ...]:
    """Summarize each layer: its largest output, and the raw spikes of its down-projection."""
    typical = measure_standing(probe).typical
    traces = []
    for layer, states in enumerate(probe.residual):
        token, channel = divmod(int(states.abs().argmax()), states.shape[1])
        observed = probe.observed_in(layer)
        traces.append(
            LayerTrace(
                layer=layer,
                residual=float(states[token, channel].abs()),
                residual_channel=channel,
                residual_token=token,
                typical=float(typical[layer]),
                down_input=max((float(one.inputs.abs().max()) for one in observed), default=None),
                down_output=max((float(one.delivered.abs().max()) for one in observed), default=None),
            )
        )
    return tuple(traces)
