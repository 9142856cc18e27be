"""A section for a model card, with the `model-index` of its front matter, as model hubs read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from sw_audit.printable import printable
from sw_audit.record.labels import label_status
from sw_audit.record.record import AuditedModel, ModelFailure, ModelResult, Record
from sw_audit.record.standing import conclude_model
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.badge import write_badge_line
from sw_audit_reports.elements import Badge, make_cells
from sw_audit_reports.markdown_text import escape, write_code, write_row, write_words
from sw_audit_reports.sections import Context, summarize_model
from sw_audit_reports.sections.checks import describe_check, write_measured
from sw_audit_reports.verdicts import Metric, list_metrics

_HEAD = ("Gate", "Verdict", "Measured", "Interval", "Limit")


def render_model_card(record: Record) -> str:
    """Render a section of a model card in Markdown, after front matter with the figures as a `model-index`.

    The index has the model's own figures and those of its gates, with intervals and limits as arguments; the
    section has verdicts, the super weights, what did not pass, and in a comment the line that shows the badge.

    Args:
        record: The record of an audit.
    """
    index = [one for result in record.results if (one := _make_index(result, record))["results"]]
    front = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=10**6)
    tool = escape(f"{record.tool.name} {record.tool.version}")
    parts = [part for model in record.models for part in _describe_model(model, record)]
    head = f"---\n{front}---\n\n" if index else ""
    badge = f"<!-- With the badge and the report beside this file: {write_badge_line(record)} -->"
    return "\n\n".join([f"{head}## Weights audited with {tool}", badge, *parts]) + "\n"


def _make_index(result: ModelResult, record: Record) -> dict[str, Any]:
    confidence = record.find_part(result.id).policy.confidence
    by_protocol: dict[str, list[Metric]] = {}
    for metric in list_metrics(result):
        if metric.verdict is None or metric.verdict.level == "gate":
            by_protocol.setdefault(str(metric.protocol), []).append(metric)
    results = [
        {
            "task": {"type": "text-generation", "name": "Text generation"},
            "dataset": {"type": printable(metrics[0].protocol.corpus.name), "name": printable(protocol)},
            "metrics": [_write_metric(metric, confidence) for metric in metrics],
        }
        for protocol, metrics in by_protocol.items()
    ]
    return {"name": printable(result.id), "results": results}


def _write_metric(metric: Metric, confidence: float) -> dict[str, Any]:
    verdict = metric.verdict
    arguments: dict[str, Any] = {"measured on": printable(metric.evidence)} if metric.evidence else {}
    if (metric.low, metric.high) != (None, None):
        arguments |= {"low": metric.low, "high": metric.high, "confidence": confidence}
    if verdict is not None:
        waived = {"waived": printable(str(verdict.waiver))} if verdict.waiver else {}
        arguments |= {"limit": verdict.limit, "verdict": label_status(verdict), **waived}
    kind = metric.name if verdict is None else verdict.check
    return {"type": printable(kind), "value": metric.value, "name": printable(metric.name), "args": arguments}


def _describe_model(model: AuditedModel, record: Record) -> Iterator[str]:
    if isinstance(model, ModelFailure):
        yield f"### {escape(model.id)}: not audited"
        yield escape(model.message)
    else:
        yield f"### {escape(model.id)}: {Badge.of(conclude_model(model)).word.lower()}"
        yield write_words(make_cells(summarize_model(Context(record, model, ""))))
    gates = [one for one in model.verdicts if one.level == "gate" and one.status is not Status.SKIPPED]
    if gates:
        rows = (write_row(_make_row(gate)) for gate in gates)
        yield "".join([write_row(_HEAD), write_row(["---", "---", "---:", "---:", "---:"]), *rows]).rstrip("\n")
    if held := [one for one in gates if one.status is not Status.PASS]:
        yield "\n".join(f"- {_tell(one)}" for one in held)
    if not isinstance(model, ModelFailure):
        yield from _name_carriers(model)
        yield f"Measured on {escape(str(model.protocol))}."


def _make_row(verdict: Verdict) -> Iterable[str]:
    observed, interval, limit = write_measured(verdict, verdict)
    named = escape(describe_check(verdict.check).title)
    waived = " (waived)" if verdict.waiver else ""
    return named, f"{label_status(verdict)}{waived}", observed, interval, limit


def _tell(verdict: Verdict) -> str:
    waived = f" Waived {escape(str(verdict.waiver))}." if verdict.waiver else ""
    return f"**{escape(describe_check(verdict.check).title)}**: {escape(verdict.because)}{waived}"


def _name_carriers(result: ModelResult) -> Iterator[str]:
    location = result.location if result.descent is None else result.descent.parent_location
    if location.super_weights:
        names = ", ".join(write_code(str(one.address)) for one in location.super_weights)
        yield f"Super weights, which carry the model: {names}. What changes one may destroy it."
