"""Super weights beside what they once were."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.drift import KEEP_IN_TRAINING, judge_weight
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import check
from sw_audit.record.baseline import Baseline
from sw_audit.record.verdict import Finding, Status, Verdict, worst_status


class SuperWeightUnmovedLimits(Limits):
    """Limits of `super-weight-unmoved`.

    Attributes:
        maximum_drift: Largest relative change of a super weight; see the limit beside a parent.
    """

    maximum_drift: Share = 0.25


@check(
    id="super-weight-unmoved",
    order=280,
    title="The super weights are where they were",
    meaning="Training on moves weights: these few may not move far.",
    quantity="largest relative drift",
    fails="one has drifted by more than 25 %",
    limits=SuperWeightUnmovedLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="baseline",
)
def super_weight_unmoved(context: CheckContext) -> Verdict:
    """Rule of `super-weight-unmoved`.

    FAIL where a super weight of the baseline is missing here, not finite, of the other sign, or further from
    its value than `maximum_drift` allows. INCONCLUSIVE where all are within it, but one of them is no longer
    located: then something else explains the super activation, or there is none. SKIPPED where the baseline has
    none. Weights are read, not measured on a text, so the protocol does not matter, and there is no interval.
    """
    baseline = context.baseline
    if not baseline.location.super_weights:
        return context.skip(f"The baseline {baseline.name} has no super weight ({baseline.location.because}).")
    if not baseline.weights:
        return context.conclude(
            Status.INCONCLUSIVE,
            f"The super weights of the baseline {baseline.name} were not read in this model.",
            remedy="Run the audit again with `--compare`, so that they are.",
        )
    limit = context.limits(SuperWeightUnmovedLimits).maximum_drift
    held = [judge_weight(one, limit) for one in baseline.weights]
    deciding = decide_finding(held, key=lambda one: one.observed or 0.0)
    missing = list(_list_unlocated(context, baseline)) if deciding.status is Status.PASS else []
    findings = [*held, *missing, *_list_new(context, baseline)]
    status = worst_status(finding.status for finding in findings)
    deciding = missing[0] if missing else deciding
    return context.conclude(
        status,
        f"Against the baseline {baseline.name}: {deciding.label} {deciding.because}.",
        remedy="Look with `sw-audit locate` at what makes the super activation now, and whether there is one."
        if status is Status.INCONCLUSIVE
        else KEEP_IN_TRAINING,
        figure=deciding,
        limit=limit,
        findings=findings,
        measured=False,
    )


def _list_unlocated(context: CheckContext, baseline: Baseline) -> Iterator[Finding]:
    """Yield the scalars that kept their value and are no longer what makes the super activation."""
    now = context.result.location
    here = {(one.layer, one.row, one.column, one.expert) for one in now.super_weights}
    for one in baseline.location.super_weights:
        if (one.layer, one.row, one.column, one.expert) not in here:
            yield Finding(
                label=f"layer {one.layer} [{one.row}, {one.column}]",
                status=Status.INCONCLUSIVE,
                because=f"kept its value, but is no longer located (outcome {now.outcome}: {now.because})",
            )


def _list_new(context: CheckContext, baseline: Baseline) -> Iterator[Finding]:
    before = {(one.layer, one.row, one.column, one.expert) for one in baseline.location.super_weights}
    for one in context.result.location.super_weights:
        if (one.layer, one.row, one.column, one.expert) not in before:
            yield Finding(
                label=f"layer {one.layer} [{one.row}, {one.column}]",
                status=Status.SKIPPED,
                observed=one.value,
                because="is located here and was not in the baseline",
            )
