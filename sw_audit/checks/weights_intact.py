"""What a checkpoint is made of: its files."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import check, find_checks
from sw_audit.record.checkpoint import Flaw, WeightsReport
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."


class WeightsIntactLimits(Limits):
    """Limits of `weights-intact`."""


@check(
    id="weights-intact",
    order=160,
    title="The files hold what they should",
    meaning="What loads without an exception can still be noise: this finds it before anything is computed.",
    quantity="serious flaws",
    fails="anything in the table below is found",
    limits=WeightsIntactLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="any",
)
def weights_intact(context: CheckContext) -> Verdict:
    """Rule of `weights-intact`.

    PASS where a static look at the files found nothing serious, and the model opened with exactly the tensors of
    its checkpoint. What is only unusual is told and decides nothing. Counting is exact, so there is no interval.
    """
    report = context.result.weights
    if report is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody looked at the files.", remedy=_AGAIN)
    return context.conclude(
        Status.PASS if report.intact else Status.FAIL,
        _describe_flaws(report),
        remedy=_capitalize(report.remedy),
        figure=Estimate(EstimateStatus.MEASURED, "", float(report.serious)),
        limit=0,
        findings=[_find_flaw(flaw) for flaw in report.flaws],
        measured=False,
    )


def judge_broken_weights(failure: ModelFailure, checks: Sequence[str]) -> tuple[Verdict, ...]:
    """Judge a model that was not opened because its weights are not intact.

    This check fails and the others are skipped. Where this one is not selected nothing can be said of what others
    ask, and they are inconclusive: a broken model passes nothing.

    Args:
        failure: Why the model was not audited.
        checks: Ids of the checks that the policy runs on it.

    Returns:
        One verdict per check, in their order; none where the weights are not why.
    """
    report, known = failure.weights, find_checks()
    if report is None:
        return ()
    asked = weights_intact.id in checks
    rest = Status.SKIPPED if asked else Status.INCONCLUSIVE
    remedy = None if asked else f"See what `{weights_intact.id}` says: {_describe_flaws(report)}"
    return tuple(
        Verdict(
            check=name,
            model=failure.model,
            status=Status.FAIL,
            observed=float(report.serious),
            limit=0,
            side=weights_intact.side,
            quantity=weights_intact.quantity,
            because=_describe_flaws(report),
            remedy=_capitalize(report.remedy),
            findings=tuple(_find_flaw(flaw) for flaw in report.flaws),
        )
        if name == weights_intact.id
        else Verdict(
            check=name,
            model=failure.model,
            status=rest,
            side=known[name].side,
            quantity=known[name].quantity,
            because="The weights are not intact, so the model was not opened.",
            remedy=remedy,
        )
        for name in checks
    )


def _describe_flaws(report: WeightsReport) -> str:
    serious = [flaw for flaw in report.flaws if flaw.serious]
    if serious:
        first, others = serious[0], f" (and {report.serious - 1} more)" if report.serious > 1 else ""
        return f"{first.where}: {first.found}{others}."
    looked = f"{report.files} files with {report.tensors} tensors were looked at, {report.scanned} value by value"
    mild = f"; {len(report.flaws)} things are unusual" if report.flaws else ""
    return f"{looked}, and nothing serious was found{mild}."


def _find_flaw(flaw: Flaw) -> Finding:
    status = Status.FAIL if flaw.serious else Status.SKIPPED
    return Finding(label=f"{flaw.kind}: {flaw.where}", status=status, because=f"{flaw.found}.")


def _capitalize(remedy: str | None) -> str | None:
    return None if remedy is None else f"{remedy[:1].upper()}{remedy[1:]}."
