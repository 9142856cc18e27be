"""Where super weights are, and how many."""

from __future__ import annotations

import math

from pydantic import Field

from sw_audit.checks.context import CheckContext
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import check
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Finding, Status, Verdict


class SuperWeightLocatedLimits(Limits):
    """Limits of `super-weight-located`.

    Attributes:
        maximum_count: The paper finds at most six per model.
        early_fraction: Early is before the middle of the depth: most layers are then left to carry what a super
            weight makes. The share of depth varies: layer 11 of 30 in SmolLM2-135M-Instruct, 9 of 42 in
            EuroLLM-9B, 10 of 60 in Llama-30B, 2 of 32 in Llama-7B.
    """

    maximum_count: int = Field(default=6, ge=1)
    early_fraction: Share = 1 / 2


@check(
    id="super-weight-located",
    order=10,
    title="At most six super weights, in an early layer's down-projection",
    meaning="One data-free forward pass finds the scalars that make the super activation.",
    quantity="super weights",
    fails="there are more, one is past the middle of the depth, or so few do not explain the activation",
    limits=SuperWeightLocatedLimits,
    level="law",
    known="one to six in an early down_proj, the deepest in layer 10 of 60 (Yu et al. 2024, table 2); 9 of 42 "
    "in EuroLLM-9B (a replication); 11 of 30 in SmolLM2-135M-Instruct (sw-audit)",
    unit="count",
    side="at most",
)
def super_weight_located(context: CheckContext) -> Verdict:
    """Rule of `super-weight-located`.

    PASS where at most `maximum_count` are located, all in the first `early_fraction` of the layers. FAIL where
    there are more or deeper ones, or a massive activation that so few scalars do not explain. SKIPPED where there
    is no massive activation. Counting is exact, so there is no interval.
    """
    location = context.result.location
    if location.outcome is Outcome.NONE:
        return context.skip(f"There is no super weight that this could hold of: {location.because}.")
    if location.outcome is Outcome.DISTRIBUTED:
        return context.conclude(
            Status.FAIL,
            f"A massive activation has no super weight: {location.because}.",
            remedy="Look at the candidates with `sw-audit locate`: many scalars make the activation together.",
            measured=False,
        )
    return _judge_presence(context, len(location.super_weights))


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
    share = Finding(
        label="share of depth",
        status=placed.status,
        observed=deepest / layers,
        because=f"{deepest / layers:.0%} of the layers come before it",
    )
    deciding = placed if counted.status is Status.PASS and placed.status is Status.FAIL else counted
    failed = deciding.status is Status.FAIL
    key = "early_fraction" if deciding is placed else "maximum_count"
    return context.conclude(
        deciding.status,
        f"{counted.because}; {placed.because}; {share.because}.",
        remedy=f"Look at the candidates with `sw-audit locate`; if these scalars are right, raise "
        f"`{context.key(key)}`.",
        figure=deciding,
        limit=deciding.limit,
        findings=(counted, placed, share),
        quantity="deepest layer of a super weight" if failed and deciding is placed else None,
        measured=False,
    )
