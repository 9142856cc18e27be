"""Critical scalars beside what they once were, wherever they are."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext, decide_finding
from sw_audit.checks.critical_scalars_retained import AGAIN, hold_scalar, tell_cost
from sw_audit.checks.drift import KEEP_IN_TRAINING
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import check
from sw_audit.record.verdict import Status, Verdict


class CriticalScalarsUnmovedLimits(Limits):
    """Limits of `critical-scalars-unmoved`.

    Attributes:
        maximum_drift: Largest relative change of a critical scalar, as it is applied; as beside a parent.
    """

    maximum_drift: Share = 0.25


@check(
    id="critical-scalars-unmoved",
    order=285,
    title="The critical scalars are where they were, wherever they are",
    meaning="Training on moves gains of norms, biases and entries of the embedding, too: the few that matter may "
    "not move far.",
    quantity="largest relative drift",
    fails="one has drifted by more than 25 %",
    limits=CriticalScalarsUnmovedLimits,
    level="gate",
    unit="share",
    side="at most",
    scope="baseline",
)
def critical_scalars_unmoved(context: CheckContext) -> Verdict:
    """Rule of `critical-scalars-unmoved`.

    As `critical-scalars-retained`, but beside a baseline whose record knows its critical scalars. They are read,
    not measured on a text, so there is no interval. SKIPPED where the baseline was not searched, or has none.
    """
    baseline, search = context.baseline, context.baseline.critical
    if search is None:
        return context.skip(f"The baseline {baseline.name} was not searched for the scalars that matter.")
    if not search.critical and not baseline.scalars:
        return context.skip(f"The baseline {baseline.name} has no critical scalar.")
    if not baseline.scalars:
        because = f"The critical scalars of the baseline {baseline.name} were not read in this model."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=AGAIN)
    limit = context.limits(CriticalScalarsUnmovedLimits).maximum_drift
    costs = {scalar.address: tell_cost(scalar, "the baseline's") for scalar in search.scalars}
    held = [hold_scalar(one, limit, *costs.get(one.address, ())) for one in baseline.scalars]
    deciding = decide_finding(held, key=lambda one: one.observed or 0.0)
    return context.conclude(
        deciding.status,
        f"Against the baseline {baseline.name}: {deciding.label} {deciding.because}.",
        remedy="Look whether this parameter has another name here than in the baseline."
        if deciding.status is Status.INCONCLUSIVE
        else KEEP_IN_TRAINING,
        figure=deciding,
        limit=limit,
        findings=held,
        measured=False,
    )
