"""SARIF of a record, held against the schema of OASIS."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft4Validator, FormatChecker
from support.evidence import compose, make_evidence, make_record
from support.hostile import hostile_texts, make_hostile
from sw_audit_reports.sarif import render_sarif

from sw_audit.policy.model_policy import Level, Waiver
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.policy.policy import Policy
from sw_audit.printable import printable
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Paste, Status, Verdict

_SCHEMA = Path(__file__).parent / "schemas" / "sarif-schema-2.1.0.json"
VALIDATOR = Draft4Validator(json.loads(_SCHEMA.read_text(encoding="utf-8")), format_checker=FormatChecker())
ORIGIN = PolicyOrigin(
    path="ci/it.swaudit.toml", models={"m": 4}, checks={"perplexity-ratio": 11}, waivers=(14, 20), whole=True
)
WAIVERS = tuple(
    Waiver(check="perplexity-ratio", model=model, until=date(2999, 1, 1), owner="Ada", reason="known")
    for model in ("other", "m")
)
SCALARS = ("model.layers.1.mlp.down_proj.weight[5, 7]",)


def read(record: Record) -> dict[str, Any]:
    """Render, validate, and return the one run."""
    document = json.loads(render_sarif(record))
    VALIDATOR.validate(document)
    [run] = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert [rules[result["ruleIndex"]] for result in run["results"]] == [one["ruleId"] for one in run["results"]]
    return dict(run)


def judge(status: Status = Status.FAIL, level: Level = "gate", **changes: Any) -> Verdict:
    figures = {"observed": 1.72, "limit": 1.1, "quantity": "perplexity ratio", "coordinates": SCALARS}
    words = {"because": "it is worse", "check": "perplexity-ratio", "model": "m"}
    return Verdict.model_validate({**words, **figures, "status": status, "level": level, **changes})


def find_result(verdict: Verdict, **changes: Any) -> dict[str, Any]:
    [result] = read(compose(ModelFailure(model="m", message="", verdicts=(verdict,)), **changes))["results"]
    return dict(result)


def test_what_did_not_pass_is_a_result_and_every_check_a_rule() -> None:
    record = make_record(windows=8, items=8)
    run = read(record)
    held = [one for one in record.verdicts if one.status in (Status.FAIL, Status.INCONCLUSIVE)]
    unjudged = [failure for failure in record.failures if not failure.verdicts]
    assert len(held) > 3
    assert len(unjudged) == 1
    assert [one["ruleId"] for one in run["results"]] == [*(one.check for one in held), "not-audited"]
    checks = [*dict.fromkeys(one.check for one in record.verdicts), "not-audited"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == checks
    assert run["invocations"][0]["executionSuccessful"] is False


def test_a_rule_says_what_the_check_claims_when_it_fails_and_what_others_measured() -> None:
    verdict = judge(check="prune-collapses", level="law")
    [rule] = read(compose(ModelFailure(model="m", message="", verdicts=(verdict,))))["tool"]["driver"]["rules"]
    assert rule["shortDescription"]["text"] == "Zeroing the super weights destroys the model"
    assert "it fails where perplexity grows less than 10 times. Elsewhere: 5.67 to 1,211" in rule["help"]["text"]
    assert rule["defaultConfiguration"] == {"level": "note"}


@pytest.mark.parametrize(
    ("status", "level", "inconclusive", "told"),
    [
        (Status.FAIL, "gate", "fail", "error"),
        (Status.FAIL, "gate", "warn", "error"),
        (Status.INCONCLUSIVE, "gate", "fail", "error"),
        (Status.INCONCLUSIVE, "gate", "warn", "warning"),
        (Status.FAIL, "law", "fail", "note"),
        (Status.INCONCLUSIVE, "law", "fail", "note"),
    ],
)
def test_the_policy_decides_whether_a_doubt_is_an_error(
    status: Status, level: Level, inconclusive: str, told: str
) -> None:
    policy = Policy.model_validate({"inconclusive": inconclusive})
    assert find_result(judge(status, level), policy=policy)["level"] == told


def test_a_result_points_at_the_line_that_names_the_model_and_at_that_of_the_limits() -> None:
    result = find_result(judge(), origin=ORIGIN)
    file = {"artifactLocation": {"uri": "ci/it.swaudit.toml"}}
    [location] = result["locations"]
    assert location["physicalLocation"] == {**file, "region": {"startLine": 4}}
    assert [one["fullyQualifiedName"] for one in location["logicalLocations"]] == ["m", *SCALARS]
    [related] = result["relatedLocations"]
    assert related["physicalLocation"] == {**file, "region": {"startLine": 11}}
    assert result["properties"] == {
        "model": "m", "status": "fail", "coordinates": [*SCALARS], "paste": [], "quantity": "perplexity ratio",
        "observed": 1.72, "limit": 1.1,
    }  # fmt: skip
    assert result["message"]["text"] == "m: fail (perplexity ratio 1.72, limit 1.1). it is worse"


@pytest.mark.parametrize(
    ("source", "uri"),
    [("out/w4 new", "out/w4%20new"), ("/srv/w4", "file:///srv/w4"), ("a:b", "a%3Ab"), ("org/name", "org/name")],
)
def test_without_a_policy_file_a_result_points_at_the_model(source: str, uri: str) -> None:
    evidence = make_evidence(windows=8)
    model = evidence.model.model_copy(update={"id": "m", "source": source})
    record = compose(evidence.model_copy(update={"model": model, "verdicts": (judge(),)}))
    [result] = read(record)["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": uri}


def test_what_is_waived_is_suppressed_by_the_line_of_its_waiver() -> None:
    policy = Policy(waivers=WAIVERS)
    result = find_result(judge(waiver=WAIVERS[1]), policy=policy, origin=ORIGIN)
    assert result["level"] == "error"
    [suppression] = result["suppressions"]
    assert suppression["justification"] == "waived until 2999-01-01 by Ada: known"
    assert suppression["location"]["physicalLocation"]["region"] == {"startLine": 20}


def test_a_fingerprint_stays_while_figures_change_and_changes_with_model_check_and_scalars() -> None:
    first = find_result(judge())["partialFingerprints"]
    assert find_result(judge(observed=9.9, low=9.0, because="other words"))["partialFingerprints"] == first
    others = (judge(model="n"), judge(check="kl-divergence"), judge(coordinates=("other.weight[1, 2]",)))
    prints = [read(compose(ModelFailure(model=one.model, message="", verdicts=(one,)))) for one in others]
    assert all(run["results"][0]["partialFingerprints"] != first for run in prints)


def test_braces_and_links_of_a_reason_are_no_placeholders_and_what_can_be_pasted_is_there_as_it_is() -> None:
    paste = Paste(where="a tool", text="dynamic={}")
    result = find_result(judge(because="{0} and [x](1)", observed=None, remedy="set {}", paste=(paste,)))
    assert result["message"]["text"] == "m: fail. {{0}} and [x] (1) To do: set {{}}"
    assert (result["properties"]["remedy"], result["properties"]["paste"]) == ("set {}", ["dynamic={}"])


@settings(deadline=None, max_examples=30)
@given(hostile_texts())
def test_whatever_a_record_holds_the_document_is_valid(text: str) -> None:
    run = read(make_hostile(text))
    assert len(run["results"]) == 4
    told = run["results"][0]["message"]["text"]
    assert printable(told, len(told)) == told
