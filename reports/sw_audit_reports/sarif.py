"""SARIF 2.1.0 of a record: what did not pass, at the line of the policy that names the model.

Every check is a rule under its own id, so that a service can follow a result from run to run. It is
written here, for libraries only name the keys of the document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from sw_audit.checks.explain import breaches, write_figure, write_limit
from sw_audit.checks.registry import find_checks
from sw_audit.printable import printable, printable_lines
from sw_audit.record.labels import label_status
from sw_audit.record.record import AuditedModel, ModelFailure, Record
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.sections.checks import describe_check
from sw_audit_reports.text import write_utc
from sw_audit_reports.verdicts import summarize_record

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
NOT_AUDITED = "not-audited"
"""Rule of a model of which nothing could be judged, which must not look like one that passes."""
_FINGERPRINT = "swAuditModelCheckScalars/v1"
# The one that GitHub follows alerts by; else it takes the text of the line.
_GITHUB_FINGERPRINT = "primaryLocationLineHash"
_COORDINATES = 100
"""Scalars of a result at most."""


def render_sarif(record: Record) -> str:
    """Render what did not pass as SARIF 2.1.0.

    A gate that fails is an error; one in doubt is an error or a warning, as the policy says of doubts; a law is a
    note. What is waived is there with its waiver as a suppression. A result's fingerprint is made of model, check
    and scalars, so it stays the same while the figures change.
    """
    checks = dict.fromkeys(verdict.check for verdict in record.verdicts)
    unjudged = [failure for failure in record.failures if not failure.verdicts]
    rules = [_make_rule(check, record) for check in checks] + [_NOT_AUDITED_RULE] * bool(unjudged)
    places = {check: place for place, check in enumerate([*checks, NOT_AUDITED])}
    results = [
        _make_result(verdict, model, part, places[verdict.check])
        for part in record.parts
        for model in part.models
        for verdict in model.verdicts
        if verdict.status in (Status.FAIL, Status.INCONCLUSIVE)
    ]
    results += [_make_failure(failure, record.find_part(failure.id), places[NOT_AUDITED]) for failure in unjudged]
    ended = {} if (time := write_utc(record.created)) is None else {"endTimeUtc": time}
    driver = {"name": "sw-audit", "version": printable(record.tool.version), "rules": rules}
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": not unjudged, **ended}],
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {"summary": printable(summarize_record(record))},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _make_rule(check: str, record: Record) -> dict[str, Any]:
    words, known = describe_check(check), find_checks().get(check)
    level = next(verdict.level for verdict in record.verdicts if verdict.check == check)
    help_text = [words.title + "."]
    if known is not None:
        help_text += [known.meaning, f"By default it fails where {known.fails}."]
        help_text += [f"Elsewhere: {known.known}."] if known.known else []
    return {
        "id": printable(check),
        "shortDescription": _message(words.title),
        "fullDescription": _message(words.meaning or words.title),
        "help": _message(" ".join(help_text)),
        "defaultConfiguration": {"level": "error" if level == "gate" else "note"},
        "properties": {"tags": [level], "quantity": printable(words.quantity)},
    }


_NOT_AUDITED_RULE = {
    "id": NOT_AUDITED,
    "shortDescription": {"text": "A model could not be audited"},
    "fullDescription": {"text": "Nothing could be judged, so nothing is known of the model."},
    "help": {"text": "Do what the message says, and run the audit again."},
    "defaultConfiguration": {"level": "error"},
}


def _make_result(verdict: Verdict, model: AuditedModel, record: Record, place: int) -> dict[str, Any]:
    figure, limit = write_figure(verdict), write_limit(verdict)
    measured = f" ({verdict.quantity} {figure}{f', limit {limit}' if limit else ''})" if figure else ""
    text = f"{model.id}: {label_status(verdict)}{measured}. {verdict.because}"
    text += f" To do: {verdict.remedy}" if verdict.remedy else ""
    scalars = [printable(one) for one in verdict.coordinates[:_COORDINATES]]
    names = ("quantity", "observed", "low", "high", "limit", "protocol", "remedy")
    facts = {name: value for name in names if (value := getattr(verdict, name)) not in (None, "")}
    result: dict[str, Any] = {
        **_begin(verdict.check, model.id, verdict.coordinates),
        "ruleIndex": place,
        "level": _choose_level(verdict, record.policy.inconclusive),
        "message": _message(text),
        "locations": [_locate(model, record, scalars)],
        "properties": {
            "model": printable(model.id),
            "status": verdict.status.value,
            "coordinates": scalars,
            "paste": [printable_lines(one.text) for one in verdict.paste],
            **{name: printable(value) if isinstance(value, str) else value for name, value in facts.items()},
        },
    }
    origin = record.origin
    if origin is not None and (line := origin.checks.get(verdict.check)) is not None:
        place_of_limit = _point(origin.path, line)
        result["relatedLocations"] = [{"id": 1, **place_of_limit, "message": {"text": "its limits"}}]
    if verdict.waiver is not None:
        waived = record.policy.waivers.index(verdict.waiver) if verdict.waiver in record.policy.waivers else None
        lines = () if origin is None else origin.waivers
        at = {"location": _point(origin.path, lines[waived])} if origin and lines and waived is not None else {}
        told = printable(f"waived {verdict.waiver}")
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": told, **at}]
    return result


def _make_failure(failure: ModelFailure, record: Record, place: int) -> dict[str, Any]:
    return {
        **_begin(NOT_AUDITED, failure.id, ()),
        "ruleIndex": place,
        "level": "error",
        "message": _message(f"{failure.id}: not audited: {failure.message}"),
        "locations": [_locate(failure, record, ())],
    }


def _begin(check: str, model: str, coordinates: Iterable[str]) -> dict[str, Any]:
    known_by = json.dumps([model, check, sorted(coordinates)])
    digest = hashlib.sha256(known_by.encode()).hexdigest()
    prints = {_FINGERPRINT: digest, _GITHUB_FINGERPRINT: f"{digest[:16]}:1"}
    return {"ruleId": printable(check), "partialFingerprints": prints}


def _choose_level(verdict: Verdict, inconclusive: str) -> str:
    if verdict.level == "law":
        return "note"
    return "error" if breaches(verdict.model_copy(update={"waiver": None}), inconclusive) else "warning"


def _locate(model: AuditedModel, record: Record, scalars: Iterable[str]) -> dict[str, Any]:
    """Point at the line that names a model, else at its policy file, else at the model; and at the scalars."""
    origin, name = record.origin, printable(model.id)
    logical = [{"name": name, "kind": "model", "fullyQualifiedName": name}]
    logical += [
        {"name": scalar.rpartition(".")[2] or scalar, "kind": "scalar", "fullyQualifiedName": scalar}
        for scalar in scalars
    ]
    if origin is not None and (model.id in origin.models or origin.whole):
        return {**_point(origin.path, origin.models.get(model.id)), "logicalLocations": logical}
    asked = next((one.source for one in record.policy.models if one.id == model.id), model.id)
    return {
        **_point(asked if isinstance(model, ModelFailure) else model.model.source),
        "logicalLocations": logical,
    }


def _point(path: str, line: int | None = None) -> dict[str, Any]:
    # A service shows a result only where it has a line.
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _write_uri(printable(path))},
            "region": {"startLine": line or 1},
        }
    }


def _write_uri(path: str) -> str:
    """Write a path as an address; one that is not absolute is told from the root of the sources."""
    for kind in (PurePosixPath, PureWindowsPath):
        if (found := kind(path)).is_absolute():
            return found.as_uri()
    return quote(path)


def _message(text: str) -> dict[str, str]:
    """Make a message that is shown as it is: braces would be placeholders, and `[...](...)` a link."""
    shown = printable(text, longest=10_000)
    return {"text": shown.replace("{", "{{").replace("}", "}}").replace("](", "] (")}
