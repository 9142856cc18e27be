"""CycloneDX 1.6 of a record: models as components of a bill of materials, with what was measured on them.

It is written here, for `cyclonedx-python-lib` knows no model cards; the tests hold it against the schemas of that
library.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from sw_audit.fact import digest_fact
from sw_audit.printable import printable
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.labels import label_status
from sw_audit.record.record import AuditedModel, ModelFailure, ModelResult, Record
from sw_audit.record.standing import conclude_model
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.sections.checks import describe_check
from sw_audit_reports.text import write_utc
from sw_audit_reports.verdicts import Metric, list_metrics

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SHA256 = re.compile("[0-9a-f]{64}")


def render_cyclonedx(record: Record) -> str:
    """Render the models of a record as a machine-learning bill of materials.

    Every model is a component with the digests of its weight files, and with a model card: figures with their
    intervals, and what did not pass as limitations. A parent is a component too, and an ancestor of its
    descendants.
    """
    parents = dict.fromkeys(
        (result.descent.parent.model_copy(update={"device": ""}) for result in record.results if result.descent),
    )
    audited = {(result.id, result.model.digest) for result in record.results}
    components = [
        _make_component(model, f"model-{place}", record.find_part(model.id).policy.confidence)
        for place, model in enumerate(record.models)
    ]
    components += [
        _describe_identity(parent, f"parent-{place}")
        for place, parent in enumerate(parents)
        if (parent.id, parent.digest) not in audited
    ]
    environments = [part.environment for part in record.parts]
    installed = [{"python": one.python, **one.packages} for one in environments]
    names = dict.fromkeys(name for versions in installed for name in versions)
    versions = {
        name: " or ".join(dict.fromkeys(versions[name] for versions in installed if name in versions))
        for name in names
    }
    tool = {"type": "application", "name": "sw-audit", "version": printable(record.tool.version)}
    created = {} if (time := write_utc(record.created)) is None else {"timestamp": time}
    document = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, f"sw-audit:{digest_fact(record)}").urn,
        "version": 1,
        "metadata": {
            **created,
            "tools": {"components": [tool]},
            "properties": _list_properties({f"version:{name}": version for name, version in versions.items()}),
        },
        "components": components,
    }
    return json.dumps(document, indent=2) + "\n"


def _make_component(model: AuditedModel, ref: str, confidence: float) -> dict[str, Any]:
    verdicts = {f"verdict:{verdict.check}": _tell_verdict(verdict) for verdict in model.verdicts}
    concluded = {"verdict": conclude_model(model).value, **verdicts}
    if isinstance(model, ModelFailure):
        properties = {**concluded, "not-audited": model.message}
        return {
            "type": "machine-learning-model",
            "bom-ref": ref,
            "name": printable(model.id),
            "properties": _list_properties(properties),
        }
    described = _describe_identity(model.model, ref)
    described["properties"] += _list_properties(concluded)
    described["properties"] += [
        {"name": "sw-audit:super-weight", "value": printable(str(one.address))}
        for one in model.location.super_weights
    ]
    if model.descent is not None:
        described["pedigree"] = {"ancestors": [_describe_identity(model.descent.parent, f"{ref}-ancestor")]}
    return {**described, "modelCard": _make_card(model, confidence)}


def _describe_identity(identity: ModelIdentity, ref: str) -> dict[str, Any]:
    files = [
        {
            "type": "file",
            "bom-ref": f"{ref}-file-{place}",
            "name": printable(file.path),
            **_write_hash(file.sha256),
        }
        for place, file in enumerate(identity.files)
    ]
    facts = {
        "source": identity.source,
        "weights-digest": identity.digest,
        "parameters": str(identity.parameters),
        "dtype": identity.dtype,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": printable(identity.id),
        **({"version": printable(identity.revision)} if identity.revision else {}),
        **(_write_hash(identity.files[0].sha256) if len(files) == 1 else {}),
        **({"components": files} if files else {}),
        "properties": _list_properties(facts),
    }


def _make_card(result: ModelResult, confidence: float) -> dict[str, Any]:
    protocol = result.protocol
    texts = [protocol] if result.descent is None else [text.protocol for text in result.descent.texts]
    held = [one for one in result.verdicts if one.status in (Status.FAIL, Status.INCONCLUSIVE)]
    limitations = [*_name_carriers(result), *map(_tell_limitation, held)]
    return {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": printable(result.model.family),
            "modelArchitecture": printable(result.model.architecture),
            "datasets": [
                {"type": "dataset", "name": printable(text.corpus.name), "description": printable(str(text))}
                for text in dict.fromkeys(texts)
            ],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_write_metric(one) for one in list_metrics(result)]},
        "considerations": {"technicalLimitations": [printable(one, 10_000) for one in limitations]},
        "properties": _list_properties({"confidence": repr(confidence)}),
    }


def _write_metric(metric: Metric) -> dict[str, Any]:
    name = metric.name if metric.verdict is None else f"{metric.verdict.check}: {metric.name}"
    ends = {"lowerBound": metric.low, "upperBound": metric.high}
    interval = {name: repr(end) for name, end in ends.items() if end is not None}
    return {
        "type": printable(name),
        "value": repr(metric.value),
        "slice": printable("; ".join(filter(None, (str(metric.protocol), metric.evidence)))),
        **({"confidenceInterval": interval} if interval else {}),
    }


def _name_carriers(result: ModelResult) -> list[str]:
    """Say which scalars carry the model, for whatever changes them changes all of it."""
    location = result.location if result.descent is None else result.descent.parent_location
    names = ", ".join(str(one.address) for one in location.super_weights)
    return [f"Super weights carry the model, and what changes one may destroy it: {names}."] if names else []


def _tell_limitation(verdict: Verdict) -> str:
    waived = f" Waived {verdict.waiver}." if verdict.waiver else ""
    return f"{describe_check(verdict.check).title}: {label_status(verdict)}. {verdict.because}{waived}"


def _tell_verdict(verdict: Verdict) -> str:
    limit = "" if verdict.limit is None else f", limit {verdict.limit!r}"
    return f"{label_status(verdict)}{limit}{'' if verdict.waiver is None else ', waived'}"


def _write_hash(sha256: str) -> dict[str, Any]:
    known = _SHA256.fullmatch(sha256)
    return {"hashes": [{"alg": "SHA-256", "content": sha256}]} if known else {}


def _list_properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": printable(f"sw-audit:{name}"), "value": printable(value)} for name, value in facts.items()]
