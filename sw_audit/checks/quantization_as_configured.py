"""Whether a checkpoint is quantized as its configuration says."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_exactly, write_number
from sw_audit.checks.limits import Limits, Nonnegative
from sw_audit.checks.registry import check
from sw_audit.record.checkpoint import Contradiction, HeldScalar, QuantizationReport, QuantizedModule
from sw_audit.record.verdict import Finding, Status, Verdict, worst_status

# So many names fit into a sentence.
_NAMED = 3
_CONTRADICTIONS = 20


class QuantizationAsConfiguredLimits(Limits):
    """Limits of `quantization-as-configured`.

    Attributes:
        maximum_unmatched: So many patterns may match nothing.
        maximum_error: Largest relative rounding error of a super weight; `None` only reports it, for
            another check judges it.
    """

    maximum_unmatched: int = Field(default=0, ge=0)
    maximum_error: Nonnegative | None = Field(default=None, examples=[0.1])


@check(
    id="quantization-as-configured",
    order=170,
    title="What the configuration says of quantization is what was done",
    meaning="Patterns that match nothing and parts left out in silence are how a compressor goes wrong unseen.",
    quantity="patterns without a match",
    fails="one matched nothing, or something is stored otherwise than said; what else stayed plain is listed",
    limits=QuantizationAsConfiguredLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="descendant",
    reads_files=True,
)
def quantization_as_configured(context: CheckContext) -> Verdict:
    """Rule of `quantization-as-configured`.

    FAIL where more than `maximum_unmatched` patterns of the configuration match no module, where nothing is
    quantized though a method is named, where something is stored otherwise than is said (a module that a pattern
    leaves as it is, a GGUF file called by another type than most of its weights have), or where a super weight's
    rounding error is above `maximum_error`, if that is set. Modules left unquantized and each super weight's bits,
    scale and rounding error are told. Skipped where the checkpoint is not quantized.
    """
    report = context.result.quantization
    if report is None:
        return context.skip("The checkpoint is not quantized.")
    limits = context.limits(QuantizationAsConfiguredLimits)
    unmatched = [pattern for pattern in report.patterns if not pattern.modules]
    findings = [
        *_find_patterns(report, limits.maximum_unmatched),
        *_find_modules(report),
        *map(_find_contradiction, report.contradictions[:_CONTRADICTIONS]),
        *(_find_scalar(held, limits.maximum_error) for held in report.super_weights),
    ]
    status = worst_status([finding.status for finding in findings if finding.status is not Status.SKIPPED])
    return context.conclude(
        Status.PASS if status is Status.SKIPPED else status,
        _describe_quantization(report),
        remedy=_advise(report),
        figure=Estimate(EstimateStatus.MEASURED, "", float(len(unmatched))),
        limit=limits.maximum_unmatched,
        findings=findings,
        measured=False,
    )


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


def _find_contradiction(found: Contradiction) -> Finding:
    status = Status.FAIL if found.serious else Status.SKIPPED
    return Finding(label=found.where, status=status, because=f"{found.said}, and {found.stored}.")


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
    serious = [found for found in report.contradictions if found.serious]
    if serious:
        first, others = serious[0], f" (and {len(serious) - 1} more)" if len(serious) > 1 else ""
        words += f"; {first.where}: {first.said}, and {first.stored}{others}"
    return f"{words}."


def _advise(report: QuantizationReport) -> str:
    first = next((pattern for pattern in report.patterns if not pattern.modules), None)
    if first is not None:
        return (
            f"Correct `{first.pattern}` in `{first.key}`: compare it with the names of the modules, and quantize "
            "again if it was to leave something out."
        )
    if any(found.serious for found in report.contradictions):
        return "Quantize again as it is said to be, or correct what the configuration or the file's name says."
    if not report.quantized:
        return "Quantize again: the configuration names a method, and no module is stored that way."
    return "Leave the super weight's module out of quantization, or give it more bits or smaller groups."
