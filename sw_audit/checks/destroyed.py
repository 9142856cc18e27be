"""Whether an arm is destroyed: two destroyed models are not compared, for which of them is worse says nothing."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import write_number
from sw_audit.record.arm import BASELINE, Purpose

DESTROYED_RATIO = 100.0
"""Perplexity over that of the model as it is, beyond which an arm counts as destroyed. Whatever anybody ships
is far below (GPT-2 in int4 groups of 64, useless already, is at 17: torchao's published table), and what is
called destroyed is above: the paper's pruned models are at 127 to 214 times and more (Yu et al. 2024, table 1),
SmolLM2-135M with one scale per matrix at 34,000,000 times, or 91,000,000 with its super weights kept, which
makes neither the better one."""


def explain_destroyed(context: CheckContext, arm: Purpose) -> str | None:
    """Say why an arm is destroyed, a clause; `None` if it is not, or was not measured.

    It is where its loss is not finite, its perplexity is over `DESTROYED_RATIO` times that of the model as it
    is, or its loss is above the unigram entropy of the scored text: whoever knows how frequent each token is
    and nothing else predicts this text better. That last rule counts only where the model as it is does better
    than that itself.
    """
    measured, intact = context.find_measurement(arm), context.find_measurement(BASELINE.purpose)
    if measured is None or intact is None:
        return None
    windows = min(len(measured.loss.tokens), len(intact.loss.tokens))
    loss, base = measured.loss.first(windows), intact.loss.first(windows).mean_nats
    if base is None:
        return None
    nats, entropy = loss.mean_nats, context.result.unigram_nats
    if nats is None:
        return "it is not finite"
    if nats - base > math.log(DESTROYED_RATIO):
        perplexity = write_number(loss.perplexity)
        return f"its perplexity is {perplexity}, over {DESTROYED_RATIO:g} times that of the model as it is"
    if entropy is not None and base < entropy < nats:
        return (
            f"it loses {write_number(nats)} nats per token, more than the {write_number(entropy)} of guessing by "
            "how frequent each token is"
        )
    return None


def explain_both_destroyed(context: CheckContext, first: Purpose, second: Purpose) -> str | None:
    """Say that two arms are both destroyed, a clause; `None` if one of them is not."""
    reasons = {arm.name: explain_destroyed(context, arm) for arm in (first, second)}
    if any(reason is None for reason in reasons.values()):
        return None
    return "both arms are destroyed: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
