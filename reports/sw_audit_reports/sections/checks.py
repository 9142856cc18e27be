"""The checks of a model: all at a glance first, each in detail near the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sw_audit.checks.registry import find_checks
from sw_audit.record.labels import label_evidence
from sw_audit.record.record import Record
from sw_audit.record.verdict import Finding, Sample, Side, Status, Verdict
from sw_audit_reports.elements import (
    Badge,
    Block,
    Cell,
    Paragraph,
    Table,
    Terms,
    Words,
    code,
    figures,
    make_paragraph,
    make_table,
    make_terms,
    split_code,
    text,
)
from sw_audit_reports.reproduce import write_command
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_FINITE,
    NOT_MEASURED,
    NOTHING,
    count,
    format_beside,
    format_exact,
    format_interval,
)

_MEASURED = figures("Measured", "Interval", "Limit")


@section("gates", title="Gates at a glance", order=10)
def show_gates(context: Context) -> Iterator[Table | None]:
    """List a model's gates, each with a link to its details."""
    rows = [_make_row(context, verdict) for verdict in context.verdicts if verdict.level == "gate"]
    yield make_table("Every gate and its verdict", [*text("Gate", "Verdict"), *_MEASURED], rows)


@section("laws", title="What holds here of what is known", order=12)
def show_laws(context: Context) -> Iterator[Paragraph | Table | None]:
    """List the laws: what the science claims, whether it holds here, and what others measured."""
    laws = [verdict for verdict in context.verdicts if verdict.level == "law"]
    if laws:
        yield make_paragraph(
            ["Claims of the science about such models. One that does not hold is a finding and no defect."]
        )
    rows = [(*_make_row(context, verdict), verdict.known or NOTHING) for verdict in laws]
    heads = [*text("Claim", "Here"), *_MEASURED, *text("Elsewhere")]
    yield make_table("Every law, whether it holds, and what others measured", heads, rows)


def _make_row(context: Context, verdict: Verdict) -> tuple[Cell | Badge | str, ...]:
    return (
        Cell(describe_check(verdict.check).title, href=f"{context.anchor}-{verdict.check}"),
        Badge.of_verdict(verdict),
        *write_measured(verdict, verdict),
    )


@section("details", title="Each check in detail", order=110)
def show_details(context: Context) -> Iterator[Block]:
    """Explain each verdict: what it means, what was measured, the limit, and how to do it again."""
    for verdict in context.verdicts:
        yield show_verdict(context.record, verdict, context.result.model.source, context.anchor)


def show_verdict(record: Record, verdict: Verdict, source: str, anchor: str) -> Block:
    """Explain one verdict on the model of a source; ids begin with the anchor of the model's part of the page."""
    info = describe_check(verdict.check)
    return Block(
        "verdict.html.j2",
        {
            "id": f"{anchor}-{verdict.check}",
            "verdict": verdict,
            "info": info,
            "badge": Badge.of_verdict(verdict),
            "measures": _list_measures(verdict, info, record),
            "because": split_code(verdict.because),
            "remedy": split_code(verdict.remedy or ""),
            "findings": _list_findings(verdict),
            "command": write_command(source, verdict.check, record.policy, verdict.model),
        },
    )


class CheckWords(NamedTuple):
    """What is said of a check on the page."""

    title: str
    meaning: str = ""
    quantity: str = ""
    counted: bool = False


def describe_check(check: str) -> CheckWords:
    """Return what is known of a check; one that is not installed here is known by its id alone."""
    if (known := find_checks().get(check)) is not None:
        return CheckWords(known.title, known.meaning, known.quantity, counted=known.unit == "count")
    return CheckWords(check.replace("-", " ").replace("_", " ").capitalize())


def _list_measures(verdict: Verdict, info: CheckWords, record: Record) -> Terms | None:
    terms: dict[str, str | Cell | Words] = {}
    if verdict.status is not Status.SKIPPED:
        quantity = verdict.quantity or info.quantity or "Measured"
        interval = format_interval(verdict.low, verdict.high, verdict.limit)
        terms[quantity[0].upper() + quantity[1:]] = _write_observed(verdict, verdict.check)
        terms[f"{100 * record.policy.confidence:g} % interval"] = interval
        terms["Limit"] = write_limit(verdict, verdict.side) or "none: reported only"
    if verdict.evidence:
        terms["Evidence"] = label_evidence(verdict.evidence)
    if verdict.known:
        terms["Elsewhere"] = verdict.known
    if verdict.protocol:
        terms["Protocol"] = (code(verdict.protocol), _describe_protocol(record, verdict))
    return make_terms(terms)


def _describe_protocol(record: Record, verdict: Verdict) -> str:
    """Say what the signature of a verdict's protocol stands for, as far as the record holds it."""
    for result in record.results:
        if result.id == verdict.model:
            texts = () if result.descent is None else result.descent.texts
            for protocol in (result.protocol, *(text.protocol for text in texts)):
                if protocol.signature == verdict.protocol:
                    return f" {protocol.description}"
    return ""


def _list_findings(verdict: Verdict) -> Table | None:
    rows: list[Words] = []
    sampled = any(finding.sample is not None for finding in verdict.findings)
    for finding in verdict.findings:
        # A figure that is held against nothing is reported, not skipped.
        reported = finding.status is Status.SKIPPED and finding.observed is not None
        badge = Badge("skipped", "Reported") if reported else Badge.of(finding.status)
        over = [_write_sample(finding.sample)] if sampled else []
        rows.append((code(finding.label), badge, *write_measured(finding, verdict), *over, finding.because))
    heads = [*text("What", "Verdict"), *_MEASURED, *text(*["Measured over"] * sampled, "Why")]
    return make_table("The single figures", heads, rows, fold="The single figures")


def _write_sample(sample: Sample | None) -> str:
    return NOTHING if sample is None else count(sample.count, sample.unit.removesuffix("s"))


def write_measured(figure: Verdict | Finding, verdict: Verdict) -> tuple[str, str, str]:
    """Write the figure of a verdict or of one of its findings, its interval and its limit."""
    interval = format_interval(figure.low, figure.high, figure.limit) or NOTHING
    return _write_observed(figure, verdict.check), interval, write_limit(figure, verdict.side) or NOTHING


def _write_observed(figure: Verdict | Finding, check: str) -> str:
    if figure.observed is not None:
        return format_beside(figure.observed, figure.limit)
    # A finding without a limit, such as a search that found nothing, has no figure to miss.
    if figure.status is Status.SKIPPED or (isinstance(figure, Finding) and figure.limit is None):
        return NOTHING
    decided = figure.status in (Status.PASS, Status.FAIL)
    return NOT_FINITE if decided and not describe_check(check).counted else NOT_MEASURED


def write_limit(figure: Verdict | Finding, side: Side | None) -> str:
    """Write the limit of a figure with the side that is good; nothing where there is none."""
    if figure.limit is None or (isinstance(figure, Verdict) and figure.status is Status.SKIPPED):
        return ""
    return f"{figure.side or side or ''} {format_exact(figure.limit)}".strip()
