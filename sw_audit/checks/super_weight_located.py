"""Where super weights are, and how many."""

from __future__ import annotations

import math

from pydantic import Field

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import check
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Finding, Status, Verdict


class SuperWeightLocatedLimits(Limits):
    """Limits of `super-weight-located`.

    Attributes:
        maximum_count: The paper finds at most six per model.
        early_fraction: The deepest published super weight that makes its own activation sits at 10 of 60
            layers (Llama-30B), replications reach 9 of 42 (EuroLLM-9B): a third leaves room.
    """

    maximum_count: int = Field(default=6, ge=1)
    early_fraction: Share = 1 / 3


@check(
    id="super-weight-located",
    order=10,
    title="At most six super weights, in an early layer's down-projection",
    meaning="One data-free forward pass finds the scalars that make the super activation.",
    quantity="super weights",
    fails='none is found (set `expect = "none"` or `"any"`), or one is past the first third',
    limits=SuperWeightLocatedLimits,
    level="law",
    known="one to six in an early `down_proj`, the deepest in layer 10 of 60 (Yu et al. 2024, table 2)",
    unit="count",
    side="at most",
)
def super_weight_located(context: CheckContext) -> Verdict:
    """Rule of `super-weight-located`.

    Expecting `some`: PASS where at most `maximum_count` are located, all in the first `early_fraction` of the
    layers. Expecting `none`: PASS where there is none. Expecting `any`: as `some` where they are located,
    else skipped. Counting is exact, so there is no interval.
    """
    location, count = context.result.location, len(context.result.location.super_weights)
    if context.expectation == "none":
        return _judge_absence(context, count)
    if location.outcome is Outcome.LOCATED:
        return _judge_presence(context, count)
    if context.expectation == "any":
        return context.skip(f'Outcome {location.outcome}, and `expect = "any"`: {location.because}.')
    return context.conclude(
        Status.FAIL,
        f"Outcome {location.outcome}, but some are expected: {location.because}.",
        remedy='If this model is known to have no super weight, set `expect = "none"` (or "any" to accept '
        "either) in the policy; if its parent has one, do not ship it: the weights have lost it.",
        figure=Estimate(EstimateStatus.MEASURED, "", float(count)),
        measured=False,
    )


def _judge_absence(context: CheckContext, count: int) -> Verdict:
    location = context.result.location
    absent = location.outcome is Outcome.NONE
    return context.conclude(
        Status.PASS if absent else Status.FAIL,
        f"Outcome {location.outcome}, {'as' if absent else 'but none is'} expected: {location.because}.",
        remedy='Set `expect = "some"` or "any" for this model, or find out where its massive activation comes '
        "from: `sw-audit locate` lists every candidate.",
        figure=Estimate(EstimateStatus.MEASURED, "", float(count)),
        limit=0,
        measured=False,
    )


def _judge_presence(context: CheckContext, count: int) -> Verdict:
    limits = context.limits(SuperWeightLocatedLimits)
    layers = context.result.model.layers
    # A float product such as 0.1 * 30 may end a hair above the integer that is meant.
    early = math.ceil(limits.early_fraction * layers - 1e-9)
    deepest = max((weight.layer for weight in context.result.location.super_weights), default=0)
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
    return context.conclude(
        deciding.status,
        f"{counted.because}; {placed.because}.",
        remedy=f"Look at the candidates with `sw-audit locate`; if these scalars are right, raise "
        f"`{context.key(key)}`.",
        figure=deciding,
        limit=deciding.limit,
        findings=(counted, placed),
        quantity="deepest layer of a super weight" if failed and deciding is placed else None,
        measured=False,
    )
