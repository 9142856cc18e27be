"""What a checkpoint is made of: its files."""

from __future__ import annotations

from sw_audit.checks.context import StaticContext
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import check
from sw_audit.record.checkpoint import Flaw, WeightsReport
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
    static=True,
)
def weights_intact(context: StaticContext) -> Verdict:
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
        observed=float(report.serious),
        limit=0,
        findings=[_find_flaw(flaw) for flaw in report.flaws],
    )


def _describe_flaws(report: WeightsReport) -> str:
    serious = [flaw for flaw in report.flaws if flaw.serious]
    if serious:
        first, others = serious[0], f" (and {report.serious - 1} more)" if report.serious > 1 else ""
        return f"{first.where}: {first.found}{others}."
    looked = f"{report.files} files with {report.tensors} tensors were looked at, {report.scanned} value by value"
    if not report.files:
        looked = f"{report.tensors} tensors in memory were looked at, value by value"
    mild = f"; {len(report.flaws)} things are unusual" if report.flaws else ""
    return f"{looked}, and nothing serious was found{mild}."


def _find_flaw(flaw: Flaw) -> Finding:
    status = Status.FAIL if flaw.serious else Status.SKIPPED
    return Finding(label=f"{flaw.kind}: {flaw.where}", status=status, because=f"{flaw.found}.")


def _capitalize(remedy: str | None) -> str | None:
    return None if remedy is None else f"{remedy[:1].upper()}{remedy[1:]}."
