"""The machine-learning bill of materials of a record, held against the strict schema of CycloneDX 1.6."""

from __future__ import annotations

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from support.descent import make_descent_evidence, make_descent_policy
from support.evidence import SUPER_WEIGHT, compose, make_record
from support.hostile import hostile_texts, make_hostile
from sw_audit_reports.cyclonedx import render_cyclonedx

from sw_audit.checks.judging import judge_result
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def read(record: Record) -> dict[str, Any]:
    """Render, validate, check that references are unique, and return the document."""
    text = render_cyclonedx(record)
    assert VALIDATOR.validate_str(text) is None
    document = dict(json.loads(text))
    refs = list(_list_refs(document))
    assert len(set(refs)) == len(refs)
    return document


def _list_refs(value: Any) -> Any:
    if isinstance(value, dict):
        yield from [value["bom-ref"]] if "bom-ref" in value else []
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _list_refs(one)


def list_properties(component: dict[str, Any]) -> dict[str, str]:
    return {one["name"].removeprefix("sw-audit:"): one["value"] for one in component["properties"]}


def make_descendant() -> Record:
    policy = make_descent_policy()
    evidence = make_descent_evidence()
    return compose(evidence.model_copy(update={"verdicts": judge_result(evidence, policy)}), policy=policy)


def test_a_descendant_has_its_digests_its_parent_and_the_parent_is_a_component_too() -> None:
    record = make_descendant()
    [result] = record.results
    assert result.descent is not None
    child, parent = read(record)["components"]
    [file] = result.model.files
    assert child["type"] == parent["type"] == "machine-learning-model"
    assert (child["name"], parent["name"]) == (result.id, result.descent.parent.id)
    assert child["components"][0]["name"] == file.path
    assert child["hashes"] == child["components"][0]["hashes"] == [{"alg": "SHA-256", "content": file.sha256}]
    [ancestor] = child["pedigree"]["ancestors"]
    assert ancestor["hashes"] == parent["hashes"]
    assert list_properties(child)["weights-digest"] == result.model.digest


def test_the_model_card_has_each_figure_with_its_interval_and_how_it_was_measured() -> None:
    record = make_descendant()
    [result] = record.results
    metrics = read(record)["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    [ratio] = [one for one in metrics if one["type"].startswith("perplexity-ratio: ")]
    [verdict] = [one for one in result.verdicts if one.check == "perplexity-ratio"]
    assert ratio["value"] == repr(verdict.observed)
    assert ratio["confidenceInterval"] == {"lowerBound": repr(verdict.low), "upperBound": repr(verdict.high)}
    assert ratio["slice"].startswith(f"{verdict.protocol} (")
    assert "windows" in ratio["slice"].partition("; ")[2]
    assert metrics[0]["type"] == "perplexity"
    assert result.unedited is not None
    assert metrics[0]["value"] == repr(result.unedited.loss.perplexity)


def test_what_carries_the_model_and_what_does_not_pass_are_limitations() -> None:
    record = make_record(windows=8, items=8)
    components = read(record)["components"]
    first = components[0]["modelCard"]["considerations"]["technicalLimitations"]
    assert first[0].endswith(f"may destroy it: {SUPER_WEIGHT.address}.")
    for result, component in zip(record.results, components, strict=False):
        held = [one for one in result.verdicts if one.status in (Status.FAIL, Status.INCONCLUSIVE)]
        told = " ".join(component["modelCard"]["considerations"]["technicalLimitations"])
        assert all(one.because in told for one in held)


def test_a_model_that_could_not_be_audited_says_so() -> None:
    [component] = read(compose(ModelFailure(model="gone", message="no such file")))["components"]
    assert list_properties(component) == {"verdict": "fail", "not-audited": "no such file"}


def test_two_records_have_two_serial_numbers_and_one_record_has_one() -> None:
    record = make_descendant()
    other = record.model_copy(update={"created": "2030-01-01T00:00:00+00:00"})
    assert read(record)["serialNumber"] == read(record)["serialNumber"] != read(other)["serialNumber"]
    assert read(other)["metadata"]["timestamp"] == "2030-01-01T00:00:00Z"


@settings(deadline=None, max_examples=30)
@given(hostile_texts())
def test_whatever_a_record_holds_the_document_is_valid(text: str) -> None:
    assert len(read(make_hostile(text))["components"]) == 3
