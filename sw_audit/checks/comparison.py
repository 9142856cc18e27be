"""From an arm's measurement to its quality beside the baseline's; nothing is held against a limit here."""

from __future__ import annotations

import math

from sw_audit.checks.estimate import keep_finite
from sw_audit.checks.statistics import Bootstrap, bound_mean_difference
from sw_audit.policy.policy import Policy
from sw_audit.record.measurement import Measurement, Quality

# exp() of more nats than this overflows; TokenLoss.perplexity draws the same line.
_MAXIMUM_NATS = 700


def rate_quality(found: Measurement, baseline: Measurement, policy: Policy) -> Quality:
    """Rate one arm.

    The interval is that of every verdict: the percentiles of a paired bootstrap over windows, whose draws all arms
    share. With fewer windows than the policy wants for an interval there is none.

    Args:
        found: The arm; may be the baseline itself.
        baseline: The model as it is, under the same protocol.
        policy: How intervals are drawn.

    Raises:
        ValueError: If the two were not scored on the same tokens.
    """
    if found.protocol != baseline.protocol or found.loss.tokens != baseline.loss.tokens:
        raise ValueError(f"arm {found.arm.name!r} was not scored on the baseline's tokens")
    ratio, low, high = _bound_ratio(found, baseline, policy)
    return Quality(
        perplexity=found.loss.perplexity,
        ratio=ratio,
        low=low,
        high=high,
        divergence=found.agreement.mean_divergence,
        top1=found.agreement.top1,
        accuracy=None if found.choices is None else found.choices.accuracy,
    )


def _bound_ratio(
    found: Measurement, baseline: Measurement, policy: Policy
) -> tuple[float | None, float | None, float | None]:
    if found.loss.perplexity is None or baseline.loss.perplexity is None:
        return None, None, None
    nats = [one for one in found.loss.nats if one is not None]
    base = [one for one in baseline.loss.nats if one is not None]
    logs = bound_mean_difference(nats, base, found.loss.tokens, Bootstrap.of(policy))
    ratio, low, high = (keep_finite(math.exp(log) if log <= _MAXIMUM_NATS else math.inf) for log in logs)
    return (ratio, None, None) if len(nats) < policy.minimum_windows else (ratio, low, high)
