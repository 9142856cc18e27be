"""Rules on where super weights are and how their super activations ride through the model."""

from __future__ import annotations

import math
import statistics

from sw_audit.facts.location import Outcome, PromptTrace, SuperActivation
from sw_audit.facts.verdict import Finding, Status, Verdict
from sw_audit.judge.bounds import Figure, Footing, write_number
from sw_audit.judge.case import Case, decide_finding

# A model has up to four massive channels (Sun et al. 2024, section 2), so three others may be larger.
_OTHER_MASSIVE_CHANNELS = 3
_LOCATED_KEY = "[checks.super-weight-located]"


def judge_location(case: Case) -> Verdict:
    """Rule of `super-weight-located`.

    Expecting `some`: PASS where at most `maximum_count` are located, all in the first `early_fraction` of the
    layers. Expecting `none`: PASS where there is none. Expecting `any`: as `some` where they are located,
    else skipped. Counting is exact, so there is no interval.
    """
    location, count = case.evidence.location, len(case.evidence.location.super_weights)
    if case.expectation == "none":
        return _judge_absence(case, count)
    if location.outcome is Outcome.LOCATED:
        return _judge_presence(case, count)
    if case.expectation == "any":
        return case.skip(f'Outcome {location.outcome}, and `expect = "any"`: {location.because}.')
    return case.conclude(
        Status.FAIL,
        f"Outcome {location.outcome}, but some are expected: {location.because}.",
        remedy='If this model is known to have no super weight, set `expect = "none"` (or "any" to accept '
        "either) in the policy; if its parent has one, do not ship it: the weights have lost it.",
        figure=Figure(Footing.MEASURED, "", float(count)),
        measured=False,
    )


def _judge_absence(case: Case, count: int) -> Verdict:
    location = case.evidence.location
    absent = location.outcome is Outcome.NONE
    return case.conclude(
        Status.PASS if absent else Status.FAIL,
        f"Outcome {location.outcome}, {'as' if absent else 'but none is'} expected: {location.because}.",
        remedy='Set `expect = "some"` or "any" for this model, or find out where its massive activation comes '
        "from: `sw-audit locate` lists every candidate.",
        figure=Figure(Footing.MEASURED, "", float(count)),
        limit=0,
        measured=False,
    )


def _judge_presence(case: Case, count: int) -> Verdict:
    limits = case.policy.checks.super_weight_located
    layers = case.evidence.model.layers
    # A float product such as 0.1 * 30 may end a hair above the integer that is meant.
    early = math.ceil(limits.early_fraction * layers - 1e-9)
    deepest = max((weight.layer for weight in case.evidence.location.super_weights), default=0)
    counted = Finding(
        label="count",
        status=Status.PASS if 0 < count <= limits.maximum_count else Status.FAIL,
        observed=count,
        limit=limits.maximum_count,
        because=f"{count} super weight{'s' if count != 1 else ''}, at most {limits.maximum_count} allowed",
    )
    placed = Finding(
        label="deepest layer",
        status=Status.PASS if deepest < early else Status.FAIL,
        observed=deepest,
        limit=early - 1,
        because=f"the deepest is in layer {deepest} of {layers} (counted from 0), at most {early - 1} is early",
    )
    deciding = placed if counted.status is Status.PASS and placed.status is Status.FAIL else counted
    failed = deciding.status is Status.FAIL
    key = "early_fraction" if deciding is placed else "maximum_count"
    return case.conclude(
        deciding.status,
        f"{counted.because}; {placed.because}.",
        remedy=f"Look at the candidates with `sw-audit locate`; if these scalars are right, raise "
        f"`{_LOCATED_KEY} {key}`.",
        figure=deciding,
        limit=deciding.limit,
        findings=(counted, placed),
        quantity="deepest layer of a super weight" if failed and deciding is placed else None,
        measured=False,
    )


def judge_persistence(case: Case) -> Verdict:
    """Rule of `super-activation-persists` (Yu et al. 2024, section 3.2; Sun et al. 2024).

    Per super activation, between its first and last layer and on every prompt: its channel peaks at one
    token, at most three other massive channels (or the other super activations) are larger there, and its
    value stays within `tolerance` of its median over all prompts and layers, relative to that median. The
    deviation is exact, there is no interval. Fewer than two prompts prove no "whatever the prompt".
    """
    activations = case.evidence.location.super_activations
    limit = case.policy.checks.super_activation_persists.tolerance
    if not activations:
        return case.conclude(
            Status.INCONCLUSIVE,
            "No super activation was recorded beside the super weights.",
            remedy="Run the audit again, so that the super activations are traced.",
        )
    findings = [_follow_activation(case, activation, limit) for activation in activations]
    deciding = decide_finding(findings, key=lambda finding: finding.observed or 0.0)
    remedy = {
        Status.FAIL: "Compare the trace with the parent's: quantization, pruning or a fine-tune has disturbed "
        "this channel; if it is meant to vary so much, raise `[checks.super-activation-persists] tolerance`.",
        Status.INCONCLUSIVE: "Run the audit again with at least two `prompts`, so that the channel is traced "
        "on each.",
    }.get(deciding.status)
    return case.conclude(
        deciding.status,
        f"{deciding.label}: {deciding.because}.",
        remedy=remedy,
        figure=deciding,
        limit=limit,
        findings=findings,
        measured=False,
    )


def _follow_activation(case: Case, activation: SuperActivation, limit: float) -> Finding:
    label = f"channel {activation.channel}"
    traces = [trace for trace in case.evidence.persistence if trace.channel == activation.channel]
    span = slice(activation.first_layer, activation.last_layer + 1)
    length = activation.last_layer + 1 - activation.first_layer
    if len(traces) < 2 or any(len(trace.values[span]) != length for trace in traces):
        because = f"{len(traces)} prompts were traced through its layers, at least two are needed"
        return Finding(label=label, status=Status.INCONCLUSIVE, limit=limit, because=because)
    values = [value for trace in traces for value in trace.values[span]]
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        because = f"its value is not finite at {len(values) - len(finite)} of {len(values)} places"
        return Finding(label=label, status=Status.FAIL, limit=limit, because=because)
    median = statistics.median(finite)
    if median == 0:
        because = "its median value is 0: there is no super activation on these prompts"
        return Finding(label=label, status=Status.FAIL, limit=limit, because=because)
    deviation = max(abs(value - median) for value in finite) / abs(median)
    others = max(len(case.evidence.location.super_activations) - 1, _OTHER_MASSIVE_CHANNELS)
    strayed = next((found for trace in traces if (found := _find_stray(trace, span, others))), None)
    within = deviation <= limit
    because = (
        f"its value is {write_number(median)} in the median over {len(traces)} prompts and layers "
        f"{activation.first_layer} to {activation.last_layer}, and deviates from that by at most "
        f"{write_number(deviation)}, with {write_number(limit)} allowed"
    )
    return Finding(
        label=label,
        status=Status.PASS if within and strayed is None else Status.FAIL,
        observed=deviation,
        limit=limit,
        because=because if strayed is None else f"{strayed}; {because}",
    )


def _find_stray(trace: PromptTrace, span: slice, others: int) -> str | None:
    """Say at which layer the channel leaves its token or is not among the largest, if it does."""
    home = trace.peaks[span.start]
    for layer in range(span.start, span.stop):
        if trace.peaks[layer] != home:
            return (
                f"on the prompt {trace.prompt!r} it moves from token {home} to token {trace.peaks[layer]} "
                f"at layer {layer}"
            )
        if trace.ranks[layer] > others:
            return (
                f"on the prompt {trace.prompt!r} {trace.ranks[layer]} other channels are larger at layer "
                f"{layer}, at most {others} may be"
            )
    return None
