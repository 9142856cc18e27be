"""Quality beside what it once was."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.limits import Limits, Ratio
from sw_audit.checks.registry import check
from sw_audit.record.identity import compare_protocols
from sw_audit.record.verdict import Status, Verdict

_TEXT = "audit it with the same text, windows, dtype and seed as the baseline, or keep a new one with `--save`"


class QualityNotWorseLimits(Limits):
    """Limits of `quality-not-worse`.

    Attributes:
        maximum_ratio: Margin of non-inferiority: perplexity over the baseline's.
    """

    maximum_ratio: Ratio = 1.1


@check(
    id="quality-not-worse",
    order=300,
    title="Perplexity is not worse than the baseline's by more than the margin",
    meaning="On the same text, by the same protocol, or not at all.",
    quantity="perplexity ratio to the baseline",
    fails="it is certainly more than 1.1 times the baseline's, under the same protocol or not at all",
    limits=QualityNotWorseLimits,
    level="gate",
    side="at most",
    scope="baseline",
)
def quality_not_worse(context: CheckContext) -> Verdict:
    """Rule of `quality-not-worse`.

    Perplexity over the baseline's, paired window by window: PASS where the interval's upper end is at most
    `maximum_ratio`, FAIL where its lower end is above it. INCONCLUSIVE where the protocols differ, and the
    reason says in what.
    """
    baseline = context.baseline
    then, now = baseline.protocol, context.result.protocol
    if not then.measures_as(now) or baseline.measurement.protocol != then.signature:
        return context.conclude(
            Status.INCONCLUSIVE,
            f"The baseline {baseline.name} was measured under another protocol: {compare_protocols(then, now)}.",
            remedy=f"{_TEXT[0].upper()}{_TEXT[1:]}.",
        )
    limit = context.limits(QualityNotWorseLimits).maximum_ratio
    measured = context.result.unedited
    estimate = (
        Estimate(EstimateStatus.MISSING, "the model was not measured")
        if measured is None or measured.protocol != now.signature
        else context.compare_losses("this model", measured.loss, baseline.name, baseline.measurement.loss)
    )
    key = context.key("maximum_ratio")
    status = context.hold(estimate, limit)
    return context.conclude(
        status,
        f"Against the baseline {baseline.name}: {estimate.words}.",
        remedy=context.advise(
            status,
            estimate.status,
            failed="Compare the two with `sw-audit diff` and take back what was changed since, "
            f"or raise `{key}` if the loss is wanted.",
            key=key,
        ),
        figure=estimate,
        limit=limit,
    )
