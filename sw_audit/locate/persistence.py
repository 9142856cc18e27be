"""Follows a super activation's channel on other prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import probe_prompt
from sw_audit.record.location import PromptTrace, SuperActivation


def trace_prompts(
    checkpoint: Checkpoint, channels: Sequence[int], prompts: Sequence[tuple[str, Sequence[int]]]
) -> tuple[PromptTrace, ...]:
    """Follow channels of the residual stream through the layers, one forward pass per prompt.

    Args:
        checkpoint: The model; it is not changed.
        channels: Channels of the residual stream.
        prompts: Each as its text and its token ids, BOS included.

    Returns:
        One trace per prompt and channel.

    Raises:
        CheckpointError: If the residual stream is not finite on a prompt.
    """
    traces = []
    for text, token_ids in prompts:
        residual = probe_prompt(checkpoint, token_ids).residual  # [layers, tokens, hidden]
        for channel in channels:
            values = residual[:, :, channel]  # [layers, tokens]
            peaks = values.abs().argmax(1)  # [layers]
            at_peak = residual[range(len(residual)), peaks]  # [layers, hidden]
            own = at_peak[:, channel]  # [layers]
            traces.append(
                PromptTrace(
                    prompt=text,
                    tokens=len(token_ids),
                    channel=channel,
                    peaks=peaks.tolist(),
                    values=[value if math.isfinite(value) else None for value in own.tolist()],
                    ranks=(at_peak.abs() > own.abs()[:, None]).sum(1).tolist(),
                )
            )
    return tuple(traces)


def find_break(
    traces: Sequence[PromptTrace], activations: Sequence[SuperActivation], tolerance: float
) -> str | None:
    """Say what a prompt changes about the super activations, if anything.

    Between its first and last layer a super activation's channel is largest at one and the same token, and its
    magnitude there stays within the tolerance of the located one.

    Args:
        traces: The channels on one prompt.
        activations: The super activations, as located.
        tolerance: Largest relative deviation.

    Returns:
        The first break, in words; `None` if all is as it was.
    """
    located = {one.channel: one for one in activations}
    for trace in traces:
        one = located[trace.channel]
        home = trace.peaks[one.first_layer]
        for layer in range(one.first_layer, one.last_layer + 1):
            value, peak = trace.values[layer], trace.peaks[layer]
            if peak != home:
                return f"channel {one.channel} moves from token {home} to token {peak} at layer {layer}"
            # Not "deviation > tolerance": what is not a number must break too.
            if value is None or not abs(value - one.value) <= tolerance * abs(one.value):
                said = "not finite" if value is None else f"{value:.4g}"
                return f"channel {one.channel} is {said} instead of {one.value:.4g} at layer {layer}"
    return None
