"""What a record attests, as an in-toto Statement v1 with the test-result predicate.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sw_audit.record.digest import digest_document, digest_value
from sw_audit.record.record import AuditedModel, ModelFailure, Record
from sw_audit.record.standing import conclude, conclude_model
from sw_audit.record.subjects import list_subjects
from sw_audit.record.verdict import Status, Verdict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
_PASSED, _WARNED, _FAILED = "passedTests", "warnedTests", "failedTests"
_RESULTS = {Status.PASS: "PASSED", Status.INCONCLUSIVE: "WARNED", Status.FAIL: "FAILED"}


def make_statement(record: Record, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the in-toto statement that follows from a record.

    Its subjects are the weight files by their sha256, named `MODEL/FILE`; of a record without digested weights the
    record itself. The configuration is the record, the policy and the environment, each by the sha256 of its
    canonical JSON, the texts by theirs, and the tool by its package URL. The result is that of the audit, and
    WARNED instead of PASSED where a verdict is waived. Tests are named `MODEL:CHECK`: a gate in doubt, a law that
    does not hold and whatever is waived warns; what was skipped is not listed.

    Args:
        record: The record.
        document: Its JSON as it was written; by default as it would be written now.
    """
    document = record.model_dump(mode="json", by_alias=True) if document is None else document
    itself = _describe("record", digest_document(document).sha256)
    subjects = [
        _describe(f"{subject.name}/{file.path}", file.sha256)
        for subject in list_subjects(record)
        for file in subject.files
    ]
    policy, environment = (_describe(key, digest_value(document[key])) for key in ("policy", "environment"))
    texts = dict.fromkeys(protocol.corpus for protocol in record.protocols)
    tool = record.tool
    configuration = [
        itself,
        *(_describe(f"merged/{place}", source.sha256) for place, source in enumerate(record.sources)),
        policy,
        *(_describe(f"text/{text.name}", text.sha256) for text in texts),
        {"name": "tool", "uri": f"pkg:pypi/{tool.name}@{tool.version}"},
        {**environment, "annotations": document["environment"]},
    ]
    tests: dict[str, list[str]] = {_PASSED: [], _WARNED: [], _FAILED: []}
    for model in record.models:
        for place, test in _list_tests(model):
            tests[place].append(test)
    status = conclude(map(conclude_model, record.models))
    if status is Status.PASS and any(verdict.waiver for verdict in record.verdicts):
        status = Status.INCONCLUSIVE
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects or [itself],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"result": _RESULTS[status], "configuration": configuration, **tests},
    }


def _describe(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}


def _list_tests(model: AuditedModel) -> Iterator[tuple[str, str]]:
    """Yield where each test of a model is listed, and its name; one that was not audited failed what was asked."""
    placed = [(place, verdict.check) for verdict in model.verdicts if (place := _place(verdict)) is not None]
    failed = conclude_model(model) is Status.FAIL
    if failed and isinstance(model, ModelFailure) and all(place != _FAILED for place, _ in placed):
        placed += [(_FAILED, check) for check in model.checks or ("not-audited",)]
    for place, check in placed:
        yield place, f"{model.id}:{check}"


def _place(verdict: Verdict) -> str | None:
    if verdict.status is Status.SKIPPED:
        return None
    if verdict.waiver is not None or verdict.status is Status.INCONCLUSIVE:
        return _WARNED
    if verdict.status is Status.PASS:
        return _PASSED
    return _FAILED if verdict.level == "gate" else _WARNED
