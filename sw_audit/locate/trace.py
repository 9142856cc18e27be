"""Follows the residual stream through the layers: which (token, channel) appears early and persists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sw_audit.facts.location import LayerTrace, SuperActivation
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import LocatorSettings


@dataclass(frozen=True)
class Standing:
    """How far every entry of the residual stream stands out, and where it persists.

    Attributes:
        typical: Per layer, the median magnitude of its output, [layers].
        standout: Magnitude over the layer's median, [layers, tokens, hidden].
    """

    typical: Tensor
    standout: Tensor


def measure_standing(probe: Probe) -> Standing:
    """Hold every entry of the residual stream against the median magnitude of its layer's output."""
    magnitude = probe.residual.abs()
    typical = magnitude.flatten(1).median(1).values  # [layers]
    floor = torch.finfo(torch.float32).tiny
    return Standing(typical, magnitude / typical.clamp_min(floor)[:, None, None])


def find_super_activations(probe: Probe, settings: LocatorSettings) -> tuple[SuperActivation, ...]:
    """Find the channels that carry a super activation.

    An entry (token, channel) counts if it stands out in a run of layers that begins early and ends late, keeps
    its sign there, and stays within a factor of its own median. Each channel is reported once, at the token
    where it is largest.

    Args:
        probe: One forward pass.
        settings: The thresholds.

    Returns:
        Largest magnitude first.
    """
    layers = len(probe.residual)
    standing = measure_standing(probe)
    latest_start = max(1, math.ceil(settings.early * layers)) - 1
    earliest_end = min(math.floor(settings.late * (layers - 1)), layers - 2) if layers > 1 else 0
    # Only entries that stand out in the layers that every admissible run includes need a closer look.
    shared = standing.standout[latest_start : max(earliest_end, latest_start) + 1]
    places = (shared >= settings.standout).all(0).nonzero()  # [entries, 2]
    found: dict[int, SuperActivation] = {}
    for token, channel in places.tolist():
        values = probe.residual[:, token, channel]
        run = _persistent_run(values, standing.standout[:, token, channel], latest_start, settings)
        if run is None or run[0] > latest_start or run[1] < earliest_end:
            continue
        value = float(values[run[0] : run[1] + 1].median())
        if channel not in found or abs(value) > abs(found[channel].value):
            found[channel] = SuperActivation(
                channel=channel, token=token, value=value, first_layer=run[0], last_layer=run[1]
            )
    return tuple(sorted(found.values(), key=lambda one: -abs(one.value)))


def _persistent_run(
    values: Tensor, standout: Tensor, inside: int, settings: LocatorSettings
) -> tuple[int, int] | None:
    """Return first and last layer of the run around layer `inside` in which an entry persists."""
    middle = values[inside:-1] if len(values) > inside + 1 else values[inside:]
    level = float(middle.median())

    def persists(layer: int) -> bool:
        value = float(values[layer])
        near = abs(level) / settings.constancy <= abs(value) <= abs(level) * settings.constancy
        return near and value * level > 0 and float(standout[layer]) >= settings.standout

    if not persists(inside):
        return None
    first = last = inside
    while first > 0 and persists(first - 1):
        first -= 1
    while last < len(values) - 1 and persists(last + 1):
        last += 1
    return first, last


def trace_layers(probe: Probe) -> tuple[LayerTrace, ...]:
    """Summarize each layer: its largest output, and the raw spikes of its down-projection."""
    typical = measure_standing(probe).typical
    traces = []
    for layer, states in enumerate(probe.residual):
        token, channel = divmod(int(states.abs().argmax()), states.shape[1])
        entering, leaving = probe.down_inputs[layer], probe.down_outputs[layer]
        traces.append(
            LayerTrace(
                layer=layer,
                residual=float(states[token, channel].abs()),
                residual_channel=channel,
                residual_token=token,
                typical=float(typical[layer]),
                down_input=None if entering is None else float(entering.abs().max()),
                down_output=None if leaving is None else float(leaving.abs().max()),
            )
        )
    return tuple(traces)
