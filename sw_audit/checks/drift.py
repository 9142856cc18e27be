"""Super weights and super activations held against what they once were."""

from __future__ import annotations

from sw_audit.checks.estimate import write_number
from sw_audit.record.baseline import HeldActivation, HeldWeight
from sw_audit.record.verdict import Finding, Status

KEEP_IN_TRAINING = (
    "Keep these scalars while training (a lower learning rate, or leave them out of the update); find the step "
    "at which they began to move with `sw_audit.training.SuperWeightWatch`."
)
"""What to do where training has moved them."""


def judge_weight(held: HeldWeight, limit: float) -> Finding:
    """Hold one super weight against what it was: its sign, and its relative drift against the limit."""
    label = f"layer {held.layer} [{held.address.row}, {held.address.column}]"
    drift = held.drift
    if held.value is None or drift is None:
        because = f"was {write_number(held.before)}, and is missing or not finite"
        return Finding(label=label, status=Status.FAIL, limit=limit, because=because)
    because = f"was {write_number(held.before)} and is {write_number(held.value)}, a drift of {drift:+.2%}"
    if held.value * held.before < 0:
        because += ": its sign has changed"
    kept = abs(drift) <= limit and held.value * held.before > 0
    status = Status.PASS if kept else Status.FAIL
    return Finding(label=label, status=status, observed=abs(drift), limit=limit, because=because)


def judge_activation(held: HeldActivation, low: float, high: float) -> Finding:
    """Hold one super activation against what it was: its sign, and its magnitude between two ratios."""
    label = f"channel {held.channel}, token {held.token}"
    if held.value is None or not held.before:
        because = f"was {write_number(held.before)}, and is not finite"
        return Finding(label=label, status=Status.FAIL, limit=low, because=because)
    ratio = held.value / held.before
    because = f"was {write_number(held.before)} and is {write_number(held.value)}, times {write_number(ratio)}"
    if ratio < 0:
        because += ": its sign has changed"
    status = Status.PASS if low <= ratio <= high else Status.FAIL
    above = ratio > high
    return Finding(
        label=label,
        status=status,
        observed=ratio,
        limit=high if above else low,
        side="at most" if above else "at least",
        because=because,
    )
