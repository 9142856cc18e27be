"""The checks of a model: all at a glance first, each in detail near the end."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.checks.info import CHECKS, CheckInfo
from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record
from sw_audit.record.verdict import Finding, Status, Verdict
from sw_audit_reports.elements import (
    Badge,
    Block,
    Cell,
    Table,
    Terms,
    code,
    figures,
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
    format_beside,
    format_exact,
    format_interval,
)

_INFO = {info.id: info for info in CHECKS}
_SIDES = {
    "super-weight-located": "at most",
    "super-activation-persists": "at most",
    "prune-collapses": "at least",
    "other-outliers-harmless": "at most",
    "placebo-harmless": "at most",
    "effect-exceeds-placebos": "at most",
    "damage-follows-dose": "at most",
    "restored-activation-heals": "at least",
    "accuracy-falls-to-chance": "at least",
    "rtn-holdout-quality": "at most",
    "holdout-beats-plain-rtn": "at least",
    "activation-holdout-quality": "at most",
    "holdout-closes-gap": "at least",
    "matches-published-index": "at least",
    "weights-intact": "at most",
    "quantization-as-configured": "at most",
    "super-weight-retained": "at most",
    "perplexity-ratio": "at most",
    "kl-divergence": "at most",
    "top1-agreement": "at least",
    "generation-sane": "at most",
    "stopwords-not-raised": "at most",
    "task-accuracy": "at most",
    "layer-error": "at most",
    "range-fits-dtype": "at most",
    "super-weight-unmoved": "at most",
    "quality-not-worse": "at most",
}
_COUNTED = ("super-weight-located", "weights-intact", "quantization-as-configured", "generation-sane")


@section("checks", title="Checks at a glance", order=10)
def show_checks(context: Context) -> Iterator[Table | None]:
    """List a model's checks, each with a link to its details."""
    rows = [
        (
            Cell(describe_check(verdict.check).title, href=f"{context.anchor}-{verdict.check}"),
            Cell("", badge=badge_verdict(verdict)),
            _write_observed(verdict, verdict.check),
            format_interval(verdict.low, verdict.high, verdict.limit) or NOTHING,
            _write_limit(verdict, verdict.check) or NOTHING,
        )
        for verdict in context.verdicts
    ]
    heads = [*text("Check", "Verdict"), *figures("Measured", "Interval", "Limit")]
    yield make_table("Every check and its verdict", heads, rows)


@section("details", title="Each check in detail", order=110)
def show_details(context: Context) -> Iterator[Block]:
    """Explain each verdict: what it means, what was measured, the limit, and how to do it again."""
    for verdict in context.verdicts:
        yield show_verdict(context.record, verdict, context.result.model.source, context.anchor)


def show_verdict(record: Record, verdict: Verdict, source: str, anchor: str) -> Block:
    """Explain one verdict.

    Args:
        record: The record.
        verdict: The verdict.
        source: Path or hub id of its model.
        anchor: What the ids of the model's part of the page begin with.
    """
    info = describe_check(verdict.check)
    return Block(
        "verdict.html.j2",
        {
            "id": f"{anchor}-{verdict.check}",
            "verdict": verdict,
            "info": info,
            "badge": badge_verdict(verdict),
            "measures": _list_measures(verdict, info, record.policy),
            "because": split_code(verdict.because),
            "remedy": split_code(verdict.remedy or ""),
            "findings": _list_findings(verdict),
            "command": write_command(source, verdict.check, record.policy, verdict.model),
        },
    )


def describe_check(check: str) -> CheckInfo:
    """Return what is known of a check; one that a plugin brought is known by its id alone."""
    plain = check.replace("-", " ").replace("_", " ")
    return _INFO.get(check) or CheckInfo(check, plain[:1].upper() + plain[1:], "", "", needs_super_weight=False)


def badge_verdict(verdict: Verdict) -> Badge:
    """Return the badge of a verdict."""
    return Badge.of(verdict.status, waived=verdict.waiver is not None)


def _list_measures(verdict: Verdict, info: CheckInfo, policy: Policy) -> Terms | None:
    terms: dict[str, str | Cell] = {}
    if verdict.status is not Status.SKIPPED:
        quantity = verdict.quantity or info.quantity or "Measured"
        terms[quantity[0].upper() + quantity[1:]] = _write_observed(verdict, verdict.check)
        terms[f"{100 * policy.confidence:g} % interval"] = format_interval(
            verdict.low, verdict.high, verdict.limit
        )
        terms["Limit"] = _write_limit(verdict, verdict.check) or "none: reported only"
    if verdict.protocol:
        terms["Protocol"] = code(verdict.protocol)
    return make_terms(terms)


def _list_findings(verdict: Verdict) -> Table | None:
    rows = [
        (
            code(finding.label),
            Cell("", badge=_badge_finding(finding)),
            _write_observed(finding, verdict.check),
            format_interval(finding.low, finding.high, finding.limit) or NOTHING,
            _write_limit(finding, verdict.check) or NOTHING,
            finding.because,
        )
        for finding in verdict.findings
    ]
    heads = [*text("What", "Verdict"), *figures("Measured", "Interval", "Limit"), *text("Why")]
    return make_table("The single figures", heads, rows, fold="The single figures")


def _badge_finding(finding: Finding) -> Badge:
    """A figure that is held against nothing is reported, not skipped."""
    reported = finding.status is Status.SKIPPED and finding.observed is not None
    return Badge("skipped", "Reported") if reported else Badge.of(finding.status)


def _write_observed(figure: Verdict | Finding, check: str) -> str:
    if figure.observed is not None:
        return format_beside(figure.observed, figure.limit)
    # A finding without a limit, such as a search that found nothing, has no figure to miss.
    if figure.status is Status.SKIPPED or (isinstance(figure, Finding) and figure.limit is None):
        return NOTHING
    decided = figure.status in (Status.PASS, Status.FAIL)
    return NOT_FINITE if decided and check not in _COUNTED else NOT_MEASURED


def _write_limit(figure: Verdict | Finding, check: str) -> str:
    if figure.limit is None or (isinstance(figure, Verdict) and figure.status is Status.SKIPPED):
        return ""
    side = _SIDES.get(check) or _infer_side(figure)
    return f"{side} {format_exact(figure.limit)}".strip()


def _infer_side(figure: Verdict | Finding) -> str:
    """Tell from a decided figure on which side of its limit it had to be."""
    if figure.observed is None or figure.limit is None or figure.observed == figure.limit:
        return ""
    above, passed = figure.observed > figure.limit, figure.status is Status.PASS
    if not passed and figure.status is not Status.FAIL:
        return ""
    return "at least" if above == passed else "at most"
