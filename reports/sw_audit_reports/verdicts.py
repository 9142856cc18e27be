"""What verdicts come to, for a model and for a record, and what they say of single arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sw_audit.checks.registry import Unit, find_checks
from sw_audit.record.arm import Purpose
from sw_audit.record.identity import Protocol
from sw_audit.record.labels import label_evidence
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import conclude, conclude_model, find_deciding, rank_worst_first
from sw_audit.record.verdict import Finding, Paste, Status, Verdict
from sw_audit_reports.elements import Badge
from sw_audit_reports.text import count, format_number, join_words

_ENDED = {
    Status.PASS: "passed",
    Status.FAIL: "failed",
    Status.INCONCLUSIVE: "inconclusive",
    Status.SKIPPED: "skipped",
}

_LAWS = (
    (Status.PASS, "pass", "holds", "hold"),
    (Status.FAIL, "inconclusive", "does not hold", "do not hold"),
    (Status.INCONCLUSIVE, "inconclusive", "undecided", "undecided"),
    (Status.SKIPPED, "skipped", "skipped", "skipped"),
)


def name_ending(status: Status) -> str:
    """Name how an audit ended that came to a status, such as `passed`."""
    return _ENDED[status]


def conclude_record(record: Record) -> Status:
    """Return the worst of all models; a record of no model decides nothing."""
    return conclude(map(conclude_model, record.models))


def is_comparison(record: Record) -> bool:
    """Tell whether quantizers were compared on every model, and nothing was judged."""
    return bool(record.models) and all(map(is_compared, record.models))


def is_compared(model: ModelResult | ModelFailure) -> bool:
    """Tell whether quantizers were compared on a model, and nothing was judged."""
    return isinstance(model, ModelResult) and model.comparison is not None and not model.verdicts


def tally(verdicts: Iterable[Verdict]) -> list[Badge]:
    """Count how many gates and laws ended how, leaving out what did not happen; waived ones are counted apart."""
    listed = list(verdicts)
    standing = [verdict for verdict in listed if verdict.waiver is None]
    counted = Counter(verdict.status for verdict in standing if verdict.level == "gate")
    badges = [Badge(status.value, words) for status, words in _count_ended(counted).items()]
    laws = Counter(verdict.status for verdict in standing if verdict.level == "law")
    badges += [
        Badge(sign, f"{count(laws[status], 'law')} {one if laws[status] == 1 else many}")
        for status, sign, one, many in _LAWS
        if laws[status]
    ]
    waived = len(listed) - len(standing)
    return [*badges, Badge("skipped", f"{format_number(waived)} waived")] if waived else badges


def summarize_record(record: Record) -> str:
    """Say in a sentence how an audit of several models ended."""
    if not record.models:
        return "No model was audited."
    ended = list(_count_ended(Counter(map(conclude_model, record.results))).values())
    ended += [f"{format_number(len(record.failures))} could not be audited"] if record.failures else []
    return f"Of {count(len(record.models), 'model')}, {join_words(ended)}."


def _count_ended(counted: Counter[Status]) -> dict[Status, str]:
    return {
        status: f"{format_number(counted[status])} {word}" for status, word in _ENDED.items() if counted[status]
    }


class Advice(NamedTuple):
    """What to do.

    Attributes:
        models: Ids of the models that it is about.
        check: Id of the check that gives it; empty of models that could not be audited.
        words: One line, code between backticks.
        paste: The same as lines that can be pasted, where it comes down to such.
    """

    models: tuple[str, ...]
    check: str
    words: str
    paste: tuple[Paste, ...] = ()


def list_advice(record: Record) -> list[Advice]:
    """List what to do about each model that does not pass, the worst first; the same advice once.

    It is that of the gate that decides against the model, else its reason, else why it could not be audited.
    """
    models: dict[tuple[str, str, tuple[Paste, ...]], list[str]] = {}
    for place in rank_worst_first(record.models):
        model = record.models[place]
        if (verdict := find_deciding(model)) is not None:
            key = verdict.check, verdict.remedy or verdict.because, verdict.paste
            models.setdefault(key, []).append(model.id)
        elif isinstance(model, ModelFailure) and conclude_model(model) is Status.FAIL:
            models.setdefault(("", model.message, ()), []).append(model.id)
    return [Advice(tuple(named), *said) for said, named in models.items()]


class Estimate(NamedTuple):
    """A figure with its interval; `None` is not finite, or missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def estimate_ratio(
    measured: Measurement | None, baseline: Measurement | None, concluded: Verdict | Finding | None = None
) -> Estimate:
    """Return the perplexity of an arm over that of another: what a verdict came to, else on all common windows."""
    if measured is None or baseline is None or (ratio := measured.loss.ratio_to(baseline.loss)) is None:
        return Estimate()
    if concluded is None or concluded.observed is None:
        return Estimate(ratio)
    return Estimate(concluded.observed, concluded.low, concluded.high)


def estimate_perplexity(
    measured: Measurement | None, baseline: Measurement | None, concluded: Verdict | Finding | None = None
) -> Estimate:
    """Return an arm's perplexity: the other's times the ratio, for the two may be measured on more or less."""
    ratio, base = estimate_ratio(measured, baseline, concluded), baseline.loss.perplexity if baseline else None
    return Estimate(*(None if end is None or base is None else end * base for end in ratio))


def list_figures(verdicts: Iterable[Verdict], unit: Unit) -> dict[str, Verdict | Finding]:
    """List what was concluded about single arms in a unit, by the name of the arm."""
    concluded: list[Verdict | Finding] = []
    for verdict in _select(verdicts, unit):
        concluded += [verdict, *verdict.findings]
    return {figure.arm: figure for figure in concluded if figure.arm is not None}


class Metric(NamedTuple):
    """A figure of a model, for documents that list what was measured.

    Attributes:
        name: What was measured, and of what kind the figure is.
        value: The figure.
        protocol: How it was measured.
        evidence: On how much; empty where it is no sample.
        low: Lower end of its interval; `None` without one.
        high: Upper end.
        verdict: The verdict that it decided; `None` of what is only reported.
    """

    name: str
    value: float
    protocol: Protocol
    evidence: str
    low: float | None = None
    high: float | None = None
    verdict: Verdict | None = None


def list_metrics(result: ModelResult) -> list[Metric]:
    """List the figures of a model that were measured on text or items: its own, then what verdicts came to."""
    texts = () if result.descent is None else result.descent.texts
    protocols = {one.signature: one for one in (result.protocol, *(text.protocol for text in texts))}
    metrics, own = list[Metric](), result.unedited
    if own is not None and (perplexity := own.loss.perplexity) is not None:
        measured = count(len(own.loss.tokens), "window")
        metrics.append(Metric("perplexity", perplexity, protocols.get(own.protocol, result.protocol), measured))
    if own is not None and own.choices is not None:
        items = count(len(own.choices.correct), "item")
        metrics.append(Metric("multiple-choice accuracy", own.choices.accuracy, result.protocol, items))
    for one in result.verdicts:
        if one.observed is not None and one.protocol in protocols:
            measured = "" if one.evidence is None else label_evidence(one.evidence)
            ends = (one.low, one.high)
            metrics.append(Metric(one.quantity, one.observed, protocols[one.protocol], measured, *ends, one))
    return metrics


def find_verdict(verdicts: Iterable[Verdict], unit: Unit, purpose: Purpose) -> Verdict | None:
    """Find the verdict whose own figure is about an arm, in a unit."""
    return next((verdict for verdict in _select(verdicts, unit) if verdict.arm == purpose.name), None)


def list_on_texts(verdicts: Iterable[Verdict]) -> Mapping[tuple[str, str], Finding]:
    """List what the paired perplexity of parent and descendant came to, by text and name of the arm.

    Of the descendant it is the ratio to the parent; of an arm in which a part is put back, the share that it
    recovers.
    """
    findings = (finding for verdict in _select(verdicts, "ratio") for finding in verdict.findings)
    return {
        (found.text, found.arm): found for found in findings if found.text is not None and found.arm is not None
    }


def _select(verdicts: Iterable[Verdict], unit: Unit) -> Iterable[Verdict]:
    checks = find_checks()
    return (verdict for verdict in verdicts if verdict.check in checks and checks[verdict.check].unit == unit)
