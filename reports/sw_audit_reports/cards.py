"""Each verdict as a card: what it means, what was measured, the limit, and how to do it again."""

from __future__ import annotations

from sw_audit.checks.info import CHECKS, CheckInfo
from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record
from sw_audit.record.verdict import Finding, Status, Verdict
from sw_audit_reports.page import Badge, Card, Cell, Table, Term, make_table, split_code, text_row
from sw_audit_reports.reproduce import write_command
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


def build_cards(record: Record, model_id: str, anchor: str) -> tuple[Card, ...]:
    """Build one card per verdict on a model, in the record's order.

    Args:
        record: The record.
        model_id: Which model.
        anchor: What the ids of the model's section begin with.
    """
    asked = {model.id: model.source for model in record.policy.models}
    source = (asked | {result.id: result.model.source for result in record.results}).get(model_id, model_id)
    verdicts = [verdict for verdict in record.verdicts if verdict.model == model_id]
    return tuple(_build_card(verdict, source, record.policy, anchor) for verdict in verdicts)


def summarize_cards(record: Record, model_id: str, anchor: str) -> Table:
    """Build the table of a model's checks, each leading to its card."""
    rows = (
        text_row(
            Cell(_describe(verdict.check).title, href=f"{anchor}-{verdict.check}"),
            Cell("", badge=Badge.of(verdict.status, waived=verdict.waiver is not None)),
            _name_observed(verdict, verdict.check),
            format_interval(verdict.low, verdict.high, verdict.limit) or NOTHING,
            _name_limit(verdict, verdict.check) or NOTHING,
        )
        for verdict in record.verdicts
        if verdict.model == model_id
    )
    return make_table(
        "Every check and its verdict", ("Check", "Verdict", "#Measured", "#Interval", "#Limit"), rows
    )


def _build_card(verdict: Verdict, source: str, policy: Policy, anchor: str) -> Card:
    info = _describe(verdict.check)
    return Card(
        id=f"{anchor}-{verdict.check}",
        check=verdict.check,
        title=info.title,
        badge=Badge.of(verdict.status, waived=verdict.waiver is not None),
        meaning=info.meaning,
        terms=_list_terms(verdict, policy),
        because=split_code(verdict.because),
        remedy=split_code(verdict.remedy or ""),
        paste=tuple((one.where, one.text) for one in verdict.paste),
        waiver=f"Waived {verdict.waiver}" if verdict.waiver else "",
        findings=_list_findings(verdict),
        coordinates=verdict.coordinates,
        command=write_command(source, verdict.check, policy, verdict.model),
    )


def _describe(check: str) -> CheckInfo:
    """Return what is known of a check; one that a plugin brought is known by its id alone."""
    plain = check.replace("-", " ").replace("_", " ")
    return _INFO.get(check) or CheckInfo(check, plain[:1].upper() + plain[1:], "", "", needs_super_weight=False)


def _list_terms(verdict: Verdict, policy: Policy) -> tuple[Term, ...]:
    quantity = verdict.quantity or _describe(verdict.check).quantity or "Measured"
    terms = []
    if verdict.status is not Status.SKIPPED:
        interval = format_interval(verdict.low, verdict.high, verdict.limit)
        figure = _name_observed(verdict, verdict.check)
        terms.append(Term(quantity[0].upper() + quantity[1:], (Cell(figure),)))
        if interval:
            terms.append(Term(f"{100 * policy.confidence:g} % interval", (Cell(interval),)))
        limit = _name_limit(verdict, verdict.check)
        terms.append(Term("Limit", (Cell(limit or "none: reported only"),)))
    if verdict.protocol:
        terms.append(Term("Protocol", (Cell(verdict.protocol, code=True),)))
    return tuple(terms)


def _list_findings(verdict: Verdict) -> Table | None:
    if not verdict.findings:
        return None
    rows = [
        text_row(
            Cell(finding.label, code=True),
            Cell("", badge=_badge_finding(finding)),
            _name_observed(finding, verdict.check),
            format_interval(finding.low, finding.high, finding.limit) or NOTHING,
            _name_limit(finding, verdict.check) or NOTHING,
            finding.because,
        )
        for finding in verdict.findings
    ]
    titles = ("What", "Verdict", "#Measured", "#Interval", "#Limit", "Why")
    return make_table("The single figures", titles, rows)


def _badge_finding(finding: Finding) -> Badge:
    """A figure that is held against nothing is reported, not skipped."""
    reported = finding.status is Status.SKIPPED and finding.observed is not None
    return Badge("skipped", "Reported") if reported else Badge.of(finding.status)


def _name_observed(figure: Verdict | Finding, check: str) -> str:
    if figure.observed is not None:
        return format_beside(figure.observed, figure.limit)
    # A finding without a limit, such as a search that found nothing, has no figure to miss.
    if figure.status is Status.SKIPPED or (isinstance(figure, Finding) and figure.limit is None):
        return NOTHING
    decided = figure.status in (Status.PASS, Status.FAIL)
    return NOT_FINITE if decided and check not in _COUNTED else NOT_MEASURED


def _name_limit(figure: Verdict | Finding, check: str) -> str:
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
