"""Rules on what a checkpoint is made of: its files, and how they say they are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_exactly, write_number
from sw_audit.checks.info import CHECKS
from sw_audit.policy.policy import Policy
from sw_audit.record.quantized import HeldScalar, QuantizationReport, QuantizedModule
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Finding, Status, Verdict, worst_status
from sw_audit.record.weights import Flaw, WeightsReport

INTACT = "weights-intact"
_AGAIN = "Run the audit again with this check selected."
_NOT_OPENED = "The weights are not intact, so the model was not opened."
# So many names fit into a sentence.
_NAMED = 3


def judge_weights(case: CheckContext) -> Verdict:
    """Rule of `weights-intact`.

    PASS where a static look at the files found nothing serious, and the model opened with exactly the tensors of
    its checkpoint. What is only unusual is told and decides nothing. Counting is exact, so there is no interval.
    """
    report = case.evidence.weights
    if report is None:
        return case.conclude(Status.INCONCLUSIVE, "Nobody looked at the files.", remedy=_AGAIN)
    return case.conclude(
        Status.PASS if report.intact else Status.FAIL,
        _describe_flaws(report),
        remedy=_capitalize(report.remedy),
        figure=Estimate(EstimateStatus.MEASURED, "", float(report.serious)),
        limit=0,
        findings=[_find_flaw(flaw) for flaw in report.flaws],
        measured=False,
    )


def judge_failure(failure: ModelFailure, policy: Policy, checks: Sequence[str]) -> tuple[Verdict, ...]:
    """Judge a model that was not opened because its weights are not intact.

    `weights-intact` fails and the others are skipped; where it is not among the checks, nothing can be said of
    what the others ask, and they are inconclusive: a broken model passes nothing.

    Args:
        failure: Why the model was not audited.
        policy: The limits; that of this check knows no exceptions.
        checks: Ids of the checks that the policy runs on it.

    Returns:
        One verdict per check, in their order; none where the weights are not why.
    """
    del policy  # the signature that every way to verdicts has
    report = failure.weights
    if report is None:
        return ()
    rest = Status.SKIPPED if INTACT in checks else Status.INCONCLUSIVE
    quantities = {check.id: check.quantity for check in CHECKS}
    return tuple(
        Verdict(
            check=INTACT,
            model=failure.model,
            status=Status.FAIL,
            observed=float(report.serious),
            limit=0,
            quantity=quantities[INTACT],
            because=_describe_flaws(report),
            remedy=_capitalize(report.remedy),
            findings=tuple(_find_flaw(flaw) for flaw in report.flaws),
        )
        if check == INTACT
        else Verdict(
            check=check,
            model=failure.model,
            status=rest,
            quantity=quantities.get(check, ""),
            because=_NOT_OPENED,
            remedy=None if rest is Status.SKIPPED else f"See what `{INTACT}` says: {_describe_flaws(report)}",
        )
        for check in checks
    )


def judge_configured(case: CheckContext) -> Verdict:
    """Rule of `quantization-as-configured`.

    FAIL where more than `maximum_unmatched` patterns of the configuration match no module, where nothing is
    quantized though a method is named, or where a super weight's rounding error is above `maximum_error`, if that
    is set. Modules left unquantized and each super weight's bits, scale and rounding error are told. Skipped
    where the checkpoint is not quantized.
    """
    report = case.evidence.quantization
    if report is None:
        return case.skip("The checkpoint is not quantized.")
    limits = case.policy.checks.quantization_as_configured
    unmatched = [pattern for pattern in report.patterns if not pattern.modules]
    findings = [
        *_find_patterns(report, limits.maximum_unmatched),
        *_find_modules(report),
        *(_find_scalar(held, limits.maximum_error) for held in report.super_weights),
    ]
    status = worst_status([finding.status for finding in findings if finding.status is not Status.SKIPPED])
    return case.conclude(
        Status.PASS if status is Status.SKIPPED else status,
        _describe_quantization(report),
        remedy=_advise(report),
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(unmatched))),
        limit=limits.maximum_unmatched,
        findings=findings,
        measured=False,
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


def _find_patterns(report: QuantizationReport, allowed: int) -> Iterator[Finding]:
    over = sum(not pattern.modules for pattern in report.patterns) > allowed
    for pattern in report.patterns:
        fails = over and not pattern.modules
        yield Finding(
            label=f"{pattern.key} {pattern.pattern}",
            status=Status.FAIL if fails else Status.PASS,
            observed=float(pattern.modules),
            because=f"It matches {pattern.modules or 'no'} module{'' if pattern.modules == 1 else 's'}.",
        )


def _find_modules(report: QuantizationReport) -> Iterator[Finding]:
    yield Finding(
        label="quantized modules",
        status=Status.PASS if report.quantized else Status.FAIL,
        observed=float(len(report.quantized)),
        because=f"{len(report.quantized)} modules are stored quantized, as {report.method}.",
    )
    if report.unquantized:
        names = ", ".join(report.unquantized[:_NAMED])
        more = f" and {len(report.unquantized) - _NAMED} more" if len(report.unquantized) > _NAMED else ""
        yield Finding(
            label="left unquantized",
            status=Status.SKIPPED,
            observed=float(len(report.unquantized)),
            because=f"No pattern leaves them out, and they are not quantized: {names}{more}.",
        )


def _find_scalar(held: HeldScalar, allowed: float | None) -> Finding:
    """Tell how one super weight is stored, and hold its rounding error against the limit, if there is one."""
    error = None if held.value is None or not held.parent else abs(held.value - held.parent) / abs(held.parent)
    status = Status.SKIPPED if allowed is None else hold_exactly(error, high=allowed)
    step = "" if held.step is None else f", scale {write_number(held.step)}"
    words = f"{_describe_module(held.module)}{step}: {write_number(held.parent)} in the parent, "
    words += f"{write_number(held.value)} here"
    return Finding(label=str(held.address), status=status, observed=error, limit=allowed, because=f"{words}.")


def _describe_module(module: QuantizedModule | None) -> str:
    if module is None:
        return "Not quantized"
    bits = "Bits not known" if module.bits is None else f"{module.bits:g} bits"
    group = "" if module.group is None else f", groups of {module.group}"
    activations = "" if module.activations is None else f", activations in {module.activations} bits"
    return f"{bits}{group}{activations}"


def _describe_quantization(report: QuantizationReport) -> str:
    unmatched = [pattern for pattern in report.patterns if not pattern.modules]
    named = f"{report.method} ({report.described})" if report.described else report.method
    words = f"{named}: {len(report.quantized)} modules are quantized, {len(report.unquantized)} left out unasked"
    if unmatched:
        names = ", ".join(f"{one.key} {one.pattern!r}" for one in unmatched[:_NAMED])
        words += f"; {len(unmatched)} of {len(report.patterns)} patterns match nothing: {names}"
    elif report.patterns:
        words += f"; all {len(report.patterns)} patterns match something"
    return f"{words}."


def _advise(report: QuantizationReport) -> str:
    first = next((pattern for pattern in report.patterns if not pattern.modules), None)
    if first is not None:
        return (
            f"Correct `{first.pattern}` in `{first.key}`: compare it with the names of the modules, and quantize "
            "again if it was to leave something out."
        )
    if not report.quantized:
        return "Quantize again: the configuration names a method, and no module is stored that way."
    return "Leave the super weight's module out of quantization, or give it more bits or smaller groups."


def _capitalize(remedy: str | None) -> str | None:
    return None if remedy is None else f"{remedy[:1].upper()}{remedy[1:]}."
