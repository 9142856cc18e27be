"""Tries both ways to begin a text, with its BOS token and without, on the first window."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import run_side_by_side
from sw_audit.corpus.windows import Windows
from sw_audit.record.start import SequenceStart, StartTrial

_LONGEST = 256
"""Tokens of the window that are tried: what BOS does shows at once."""


@torch.no_grad()
def try_starts(checkpoint: Checkpoint, windows: Windows) -> StartTrial:
    """Measure the loss on the second half of the first window, with BOS before it and without.

    Whichever token is first holds the super activation and hardly says what it is. So without BOS the text's own
    first word is lost to the few that follow, which is a matter of that word and not of how the model is used: on
    SmolLM2-135M-Instruct it makes a quarter of a nat of a whole window of 127 tokens.
    """
    start, other = checkpoint.start, checkpoint.start.other
    if other is None:
        return StartTrial(start=start)
    content = windows.token_ids[0].tolist()[windows.bos is not None :]
    longest = min(_LONGEST, checkpoint.maximum_positions or _LONGEST) - 1
    content = content[:longest]
    half = len(content) // 2

    def measure(begun: SequenceStart) -> float | None:
        token_ids = torch.tensor([[*begun.lead, *content]], device=checkpoint.device)  # [1, tokens]
        first = len(begun.lead) + half
        logits = checkpoint.model(input_ids=token_ids, use_cache=False).logits[0, first - 1 : -1].float()
        loss = float(cross_entropy(logits, token_ids[0, first:]))
        return loss if math.isfinite(loss) else None

    loss, other_loss = run_side_by_side(checkpoint, [partial(measure, start), partial(measure, other)])
    return StartTrial(start=start, tokens=len(content) - half, loss=loss, other_loss=other_loss)
