"""Follows a super activation's channel on other prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.facts.location import PromptTrace
from sw_audit.locate.probe import probe_prompt


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
