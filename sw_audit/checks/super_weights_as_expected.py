"""Whether there are super weights where the policy expects some, and none where it expects none."""

from __future__ import annotations

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import check
from sw_audit.record.location import Outcome
from sw_audit.record.verdict import Status, Verdict


class SuperWeightsAsExpectedLimits(Limits):
    """Limits of `super-weights-as-expected`: none; what is expected stands in `expect`."""


@check(
    id="super-weights-as-expected",
    order=12,
    title="There are super weights where some are expected, and none where none are",
    meaning="A model that lost its super weight is not shipped, and a new one is not overlooked.",
    quantity="super weights",
    fails='none is located and `expect = "some"`, or one is and `expect = "none"`; skipped by default (`any`)',
    limits=SuperWeightsAsExpectedLimits,
    level="gate",
    unit="count",
    side="at least",
)
def super_weights_as_expected(context: CheckContext) -> Verdict:
    """Rule of `super-weights-as-expected`.

    Expecting `some`: PASS where they are located. Expecting `none`: PASS where there is no massive activation.
    Expecting `any`: SKIPPED. Counting is exact, so there is no interval.
    """
    location, expected = context.result.location, context.expectation
    head = f"Outcome {location.outcome}"
    rotated = "" if location.rotation is None else f"; {location.rotation}"
    if expected == "any":
        return context.skip(f'{head}, and `expect = "any"`: {location.because}{rotated}.')
    passed = location.outcome is (Outcome.LOCATED if expected == "some" else Outcome.NONE)
    if expected == "some":
        words = "as expected" if passed else "but some are expected"
        remedy = (
            'If this model is known to have no super weight, set `expect = "none"` (or "any" to accept either) in '
            "the policy; if its parent has one, do not ship it: the weights have lost it."
            if location.rotation is None
            else 'Set `expect = "any"` for this model: in a rotated checkpoint no scalar makes a super activation.'
        )
    else:
        words = "as expected" if passed else "but none is expected"
        remedy = (
            'Set `expect = "some"` or "any" for this model, or find out where its massive activation comes from: '
            "`sw-audit locate` lists every candidate."
        )
    return context.conclude(
        Status.PASS if passed else Status.FAIL,
        f"{head}, {words}: {location.because}{rotated}.",
        remedy=remedy,
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(location.super_weights))),
        limit=1 if expected == "some" else 0,
        side="at least" if expected == "some" else "at most",
        measured=False,
    )
