"""Rules on a model beside what was once known of it: super weights, super activations, quality."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_at_most, write_number
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.protocol import compare_protocols
from sw_audit.record.verdict import Finding, Status, Verdict, worst_status

_TEXT = "audit it with the same text, windows, dtype and seed as the baseline, or keep a new one with `--save`"
_TRAINING = "Keep these scalars while training (a lower learning rate, or leave them out of the update); find the "
_CLIFF = "step at which they began to move with `sw_audit.training.SuperWeightWatch`."


def judge_unmoved_weights(case: CheckContext) -> Verdict:
    """Rule of `super-weight-unmoved`.

    FAIL where a super weight of the baseline is missing here, not finite, of the other sign, or further from
    its value than `maximum_drift` allows. INCONCLUSIVE where all are within it, but one of them is no longer
    located: then something else explains the super activation, or there is none. SKIPPED where the baseline has
    none. Weights are read, not measured on a text, so the protocol does not matter, and there is no interval.
    """
    baseline = _require(case)
    if not baseline.location.super_weights:
        return case.skip(f"The baseline {baseline.name} has no super weight ({baseline.location.because}).")
    if not baseline.weights:
        return case.conclude(
            Status.INCONCLUSIVE,
            f"The super weights of the baseline {baseline.name} were not read in this model.",
            remedy="Run the audit again with `--compare`, so that they are.",
        )
    limit = case.policy.checks.super_weight_unmoved.maximum_drift
    held = [judge_weight(one, limit) for one in baseline.weights]
    deciding = decide_finding(held, key=lambda one: one.observed or 0.0)
    missing = list(_list_unlocated(case, baseline)) if deciding.status is Status.PASS else []
    findings = [*held, *missing, *_list_new(case, baseline)]
    status = worst_status(finding.status for finding in findings)
    deciding = missing[0] if missing else deciding
    return case.conclude(
        status,
        f"Against the baseline {baseline.name}: {deciding.label} {deciding.because}.",
        remedy="Look with `sw-audit locate` at what makes the super activation now, and whether there is one."
        if status is Status.INCONCLUSIVE
        else _TRAINING + _CLIFF,
        figure=deciding,
        limit=limit,
        findings=findings,
        measured=False,
    )


def judge_unmoved_activations(case: CheckContext) -> Verdict:
    """Rule of `super-activation-unmoved`.

    On the prompt that located them, channel and token of every super activation of the baseline are read again,
    the median over layers. FAIL where the magnitude is outside of the limits, of the other sign, or not finite;
    INCONCLUSIVE where prompt, dtype or shape differ, so that they cannot be compared; SKIPPED where the baseline
    has none. One pass on one prompt is exact, so there is no interval.
    """
    baseline = _require(case)
    if not baseline.location.super_activations:
        return case.skip(f"The baseline {baseline.name} has no super activation ({baseline.location.because}).")
    obstacles = baseline.list_obstacles(case.evidence.model, case.evidence.location)
    if obstacles or not baseline.activations:
        reason = "; ".join(obstacles) or "its super activations were not read in this model"
        return case.conclude(
            Status.INCONCLUSIVE,
            f"The super activations of the baseline {baseline.name} cannot be compared: {reason}.",
            remedy="Run the audit again with `--compare`, in the dtype of the baseline, or keep a new one.",
        )
    limits = case.policy.checks.super_activation_unmoved
    low, high = limits.minimum_ratio, limits.maximum_ratio
    findings = [judge_activation(one, low, high) for one in baseline.activations]
    deciding = decide_finding(findings, key=lambda one: _measure_distance(one.observed or 0.0, low, high))
    return case.conclude(
        deciding.status,
        f"Against the baseline {baseline.name}: {deciding.label} {deciding.because}.",
        remedy="Look at `super-weight-unmoved`: the super weights make this activation. " + _TRAINING + _CLIFF,
        figure=deciding,
        limit=deciding.limit,
        findings=findings,
        measured=False,
    )


def judge_not_worse(case: CheckContext) -> Verdict:
    """Rule of `quality-not-worse`.

    Perplexity over the baseline's, paired window by window: PASS where the interval's upper end is at most
    `maximum_ratio`, FAIL where its lower end is above it. INCONCLUSIVE where the protocols differ, and the
    reason says in what.
    """
    baseline = _require(case)
    then, now = baseline.protocol, case.evidence.protocol
    if then.signature != now.signature or baseline.measurement.protocol != then.signature:
        return case.conclude(
            Status.INCONCLUSIVE,
            f"The baseline {baseline.name} was measured under another protocol: {compare_protocols(then, now)}.",
            remedy=f"{_TEXT[0].upper()}{_TEXT[1:]}.",
        )
    limit = case.policy.checks.quality_not_worse.maximum_ratio
    measured = case.evidence.unedited
    figure = (
        Estimate(EstimateStatus.MISSING, "the model was not measured")
        if measured is None or measured.protocol != now.signature
        else case.compare_losses("this model", measured.loss, baseline.name, baseline.measurement.loss)
    )
    status = hold_at_most(figure, limit)
    key = "[checks.quality-not-worse] maximum_ratio"
    return case.conclude(
        status,
        f"Against the baseline {baseline.name}: {figure.words}.",
        remedy=case.advise(
            status,
            figure.footing,
            failed="Compare the two with `sw-audit diff` and take back what was changed since, "
            f"or raise `{key}` if the loss is wanted.",
            key=key,
        ),
        figure=figure,
        limit=limit,
    )


def _require(case: CheckContext) -> Baseline:
    if case.evidence.baseline is None:
        raise LookupError(f"{case.check.id} needs a baseline")
    return case.evidence.baseline


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
    return Finding(
        label=label, status=status, observed=ratio, limit=high if ratio > high else low, because=because
    )


def _measure_distance(ratio: float, low: float, high: float) -> float:
    """Return how far a ratio is out, as a factor: above 1 where it is outside; a changed sign is furthest."""
    return max(low / ratio, ratio / high) if ratio > 0 else math.inf


def _list_unlocated(case: CheckContext, baseline: Baseline) -> Iterator[Finding]:
    """Yield the scalars that kept their value and are no longer what makes the super activation."""
    now = case.evidence.location
    here = {(one.layer, one.row, one.column, one.expert) for one in now.super_weights}
    for one in baseline.location.super_weights:
        if (one.layer, one.row, one.column, one.expert) not in here:
            yield Finding(
                label=f"layer {one.layer} [{one.row}, {one.column}]",
                status=Status.INCONCLUSIVE,
                because=f"kept its value, but is no longer located (outcome {now.outcome}: {now.because})",
            )


def _list_new(case: CheckContext, baseline: Baseline) -> Iterator[Finding]:
    before = {(one.layer, one.row, one.column, one.expert) for one in baseline.location.super_weights}
    for one in case.evidence.location.super_weights:
        if (one.layer, one.row, one.column, one.expert) not in before:
            yield Finding(
                label=f"layer {one.layer} [{one.row}, {one.column}]",
                status=Status.SKIPPED,
                observed=one.value,
                because="is located here and was not in the baseline",
            )
