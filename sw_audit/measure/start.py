"""Tries both ways to begin a text, with its BOS token and without, on the first window."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.record.start import SequenceStart, StartTrial

_LONGEST = 256
"""Tokens of the window that are tried: what BOS does shows at once."""


@torch.no_grad()
def try_starts(checkpoint: Checkpoint, windows: Windows) -> StartTrial:
    """Measure the loss on the first window with BOS before it and without, on the same tokens."""
    start, other = checkpoint.start, checkpoint.start.other
    if other is None:
        return StartTrial(start=start)
    content = windows.token_ids[0].tolist()[windows.bos is not None :]
    longest = min(_LONGEST, checkpoint.maximum_positions or _LONGEST) - 1
    content = content[:longest]

    def measure(begun: SequenceStart) -> float | None:
        token_ids = torch.tensor([[*begun.lead, *content]], device=checkpoint.device)  # [1, tokens]
        logits = checkpoint.model(input_ids=token_ids, use_cache=False).logits[0, len(begun.lead) : -1].float()
        loss = float(cross_entropy(logits, token_ids[0, len(begun.lead) + 1 :]))
        return loss if math.isfinite(loss) else None

    return StartTrial(start=start, tokens=len(content) - 1, loss=measure(start), other_loss=measure(other))
