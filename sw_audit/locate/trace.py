"""Follows the residual stream through the layers: which (token, channel) appears early and persists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import run_side_by_side
from sw_audit.locate.probe import Probe, watch_residual
from sw_audit.locate.settings import LocatorSettings
from sw_audit.record.location import LayerTrace, PromptTrace, SuperActivation

_TOKENS_AT_ONCE, _LENGTHS_AT_ONCE = 512, 1.5
"""Most tokens of the prompts that run side by side, and how much longer the longest of them may be."""


def measure_prominence(probe: Probe) -> tuple[Tensor, Tensor]:
    """Measure how far every entry of the residual stream stands out.

    Returns:
        Per layer, the median magnitude of its output, [layers]. And each entry's magnitude over that median, or
        over the median of its own token's entries where that is larger: a hot neuron lifts all channels of one
        token, and then none of them stands out for that; [layers, tokens, hidden].
    """
    magnitude = probe.residual.abs()
    typical = magnitude.flatten(1).median(1).values  # [layers]
    of_token = magnitude.median(2).values  # [layers, tokens]
    floor = torch.finfo(torch.float32).tiny
    scale = torch.maximum(of_token, typical[:, None]).clamp_min(floor)  # [layers, tokens]
    return typical, magnitude / scale[:, :, None]


def find_span(probe: Probe, settings: LocatorSettings) -> tuple[int, int]:
    """Return first and last of the layers through which every super activation must persist.

    It must have appeared by the first of them. The last two layers are never among them where there are more:
    there the stream is made ready for the head, and the largest spikes of all have no successor to act on. Where
    only the early layers ran, the last `early_beyond` of those are the proof, and it appears before them.
    """
    layers, seen = probe.layers, len(probe.residual)
    if seen < layers:
        return max(0, seen - 1 - settings.early_beyond), seen - 1
    first = max(1, math.ceil(settings.early * layers)) - 1
    return first, max(first, min(math.floor(settings.late * (layers - 1)), layers - 3))


def count_early_layers(layers: int, settings: LocatorSettings) -> int:
    """Count the layers, from the first, that have to run where only the early ones do.

    Of a shallow model at least the first three can hold a cause: most published ones sit in layer 1 or 2.
    """
    return min(layers, max(math.ceil(settings.early_reading * layers), 3 + settings.early_beyond))


def find_super_activations(probe: Probe, settings: LocatorSettings) -> tuple[SuperActivation, ...]:
    """Find the entries of the residual stream that a super activation could be, largest magnitude first.

    An entry (token, channel) counts if it stands out in a run of layers that begins early and ends late, keeps
    its sign there, and stays within a factor of its median over the layers that every run includes. A channel may
    be there at several tokens.
    """
    prominent = measure_prominence(probe)[1] >= settings.prominence  # [layers, tokens, hidden]
    first, last = find_span(probe, settings)
    activations = []
    for token, channel in prominent[first : last + 1].all(0).nonzero().tolist():
        values = probe.residual[:, token, channel]
        level = float(values[first : last + 1].median())
        ratio = values / level
        near = (ratio >= 1 / settings.constancy) & (ratio <= settings.constancy)
        persists = (near & prominent[:, token, channel]).tolist()
        if all(persists[first : last + 1]):
            begin, end = first, last
            while begin > 0 and persists[begin - 1]:
                begin -= 1
            while end + 1 < len(persists) and persists[end + 1]:
                end += 1
            activations.append(
                SuperActivation(channel=channel, token=token, value=level, first_layer=begin, last_layer=end)
            )
    return tuple(sorted(activations, key=lambda activation: -abs(activation.value)))


def trace_layers(probe: Probe) -> tuple[LayerTrace, ...]:
    """Summarize each layer: its largest output, and the raw spikes of its down-projection."""
    typical, _ = measure_prominence(probe)
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
                down_input=max((float(seen.inputs.abs().max()) for seen in observed), default=None),
                down_output=max((float(seen.delivered.abs().max()) for seen in observed), default=None),
            )
        )
    return tuple(traces)


def trace_prompts(
    checkpoint: Checkpoint, channels: Sequence[int], prompts: Sequence[tuple[str, Sequence[int]]]
) -> tuple[PromptTrace, ...]:
    """Follow channels of the residual stream through the layers, prompts of about one length in one batch.

    A prompt is its text and its token ids, BOS included. One trace per prompt and channel.

    Raises:
        CheckpointError: If the residual stream is not finite on a prompt.
    """
    groups = _group_by_length([token_ids for _, token_ids in prompts])
    jobs = [partial(_trace_group, checkpoint, channels, [prompts[number] for number in group]) for group in groups]
    traces: dict[int, list[PromptTrace]] = {}
    for group, of_group in zip(groups, run_side_by_side(checkpoint, jobs), strict=True):
        traces |= zip(group, of_group, strict=True)
    return tuple(trace for number in range(len(prompts)) for trace in traces[number])


def _group_by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put prompts, by number, into groups that are run at once: few tokens in all, and few of them filled up."""
    groups: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        length = len(prompts[number])
        if (
            not groups
            or length * (len(groups[-1]) + 1) > _TOKENS_AT_ONCE
            or length > _LENGTHS_AT_ONCE * len(prompts[groups[-1][0]]) + 2
        ):
            groups.append([])
        groups[-1].append(number)
    return groups


def _trace_group(
    checkpoint: Checkpoint, channels: Sequence[int], prompts: Sequence[tuple[str, Sequence[int]]]
) -> list[list[PromptTrace]]:
    each = torch.arange(len(prompts))
    seen: list[Tensor] = []

    def see(_: int, states: Tensor, inside: Tensor) -> None:
        magnitude = states[:, :, list(channels)].abs().masked_fill(~inside[:, :, None], -1.0)
        peaks = magnitude.argmax(1)  # [prompts, channels]
        at_peak = states[each[:, None], peaks]  # [prompts, channels, hidden]
        values = at_peak.gather(2, torch.tensor(channels).expand(len(prompts), -1)[:, :, None])  # [.., .., 1]
        ranks = (at_peak.abs() > values.abs()).sum(2)
        seen.append(torch.stack([peaks, values[:, :, 0], ranks]))

    watch_residual(checkpoint, [token_ids for _, token_ids in prompts], see)
    peaks, values, ranks = torch.stack(seen, -1)  # [prompts, channels, layers] each
    return [
        [
            PromptTrace(
                prompt=text,
                tokens=len(token_ids),
                channel=channel,
                peaks=peaks[number, place].long().tolist(),
                values=values[number, place].tolist(),
                ranks=ranks[number, place].long().tolist(),
            )
            for place, channel in enumerate(channels)
        ]
        for number, (text, token_ids) in enumerate(prompts)
    ]


def find_break(
    traces: Sequence[PromptTrace], activations: Sequence[SuperActivation], tolerance: float
) -> str | None:
    """Say what a prompt changes about the super activations, as located; `None` if all is as it was.

    Between its first and last layer a super activation's channel is largest at one and the same token, and its
    magnitude there stays within the tolerance, relative, of the located one.
    """
    by_channel = {activation.channel: activation for activation in activations}
    for trace in traces:
        located = by_channel[trace.channel]
        first_peak = trace.peaks[located.first_layer]
        for layer in range(located.first_layer, located.last_layer + 1):
            value, peak = trace.values[layer], trace.peaks[layer]
            if peak != first_peak:
                return f"channel {trace.channel} moves from token {first_peak} to token {peak} at layer {layer}"
            # Not "deviation > tolerance": what is not a number must break too.
            if value is None or not abs(value - located.value) <= tolerance * abs(located.value):
                said = "not finite" if value is None else f"{value:.4g}"
                return f"channel {trace.channel} is {said} instead of {located.value:.4g} at layer {layer}"
    return None
