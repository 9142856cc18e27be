"""The rule on where super weights are, and how many."""

from __future__ import annotations

import math

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Finding, Status, Verdict

_LOCATED_KEY = "[checks.super-weight-located]"


def judge_location(case: CheckContext) -> Verdict:
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
        figure=Estimate(EstimateStatus.MEASURED, "", float(count)),
        measured=False,
    )


def _judge_absence(case: CheckContext, count: int) -> Verdict:
    location = case.evidence.location
    absent = location.outcome is Outcome.NONE
    return case.conclude(
        Status.PASS if absent else Status.FAIL,
        f"Outcome {location.outcome}, {'as' if absent else 'but none is'} expected: {location.because}.",
        remedy='Set `expect = "some"` or "any" for this model, or find out where its massive activation comes '
        "from: `sw-audit locate` lists every candidate.",
        figure=Estimate(EstimateStatus.MEASURED, "", float(count)),
        limit=0,
        measured=False,
    )


def _judge_presence(case: CheckContext, count: int) -> Verdict:
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
