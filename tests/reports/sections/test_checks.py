"""The checks of a model, at a glance and in detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.evidence import (
    compose,
    judge_model,
    make_evidence,
    make_failing_evidence,
    make_policy,
    make_record,
)
from support.sections import build_section, make_context, read, read_rows
from sw_audit_reports.sections import Context

from sw_audit.checks.registry import find_checks
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Finding, Status, Verdict


def build(**figures: object) -> Mapping[str, Any]:
    values: dict[str, Any] = {
        "check": "prune-collapses",
        "model": "specimen",
        "status": "pass",
        "because": "it is so",
    }
    check = find_checks().get(figures.get("check", values["check"]))
    values["side"] = check.side if check is not None else None
    verdict = Verdict.model_validate({**values, "quantity": "perplexity ratio", **figures})
    [block] = build_section("details", make_context(make_evidence(windows=8), [verdict])).blocks
    return block.values


def read_measures(values: Mapping[str, Any]) -> dict[str, str]:
    measures = values["measures"]
    return {} if measures is None else {name: read(cells) for name, cells in measures.terms}


def test_a_card_says_what_was_measured_its_interval_and_the_limit() -> None:
    values = build(observed=213.61, low=211.1, high=216.3, limit=10.0, protocol="aad14420ddc6")
    assert read_measures(values) == {
        "Perplexity ratio": "213.6",
        "95 % interval": "[211.1, 216.3]",
        "Limit": "at least 10",
        "Protocol": "aad14420ddc6",
    }
    assert values["badge"].word == "Pass"
    assert read(values["because"]) == "It is so."


def test_a_missing_figure_is_called_what_it_is() -> None:
    for check, status, shown in (
        ("prune-collapses", "pass", "not finite"),
        ("rtn-holdout-quality", "fail", "not finite"),
        ("rtn-holdout-quality", "inconclusive", "not measured"),
        ("super-weight-located", "fail", "not measured"),
    ):
        assert read_measures(build(check=check, status=status))["Perplexity ratio"] == shown


def test_a_skipped_check_shows_its_reason_and_no_figures() -> None:
    values = build(status="skipped", limit=10.0)
    assert read_measures(values) == {}
    assert values["badge"].status == "skipped"


@pytest.mark.parametrize(
    ("check", "status", "observed", "limit"),
    [
        ("stopword-shift", "inconclusive", 1.3, "2"),
        ("mine", "fail", 3.0, "2"),
        ("placebo-harmless", "inconclusive", 1.3, "at most 2"),
        ("holdout-beats-plain-rtn", "fail", 3.0, "at least 2"),
    ],
)
def test_the_side_of_the_limit_is_the_verdicts(check: str, status: str, observed: float, limit: str) -> None:
    assert read_measures(build(check=check, status=status, observed=observed, limit=2.0))["Limit"] == limit


def test_a_finding_without_a_limit_is_reported_and_not_skipped() -> None:
    reported = Finding(label="int4/tensor", status=Status.SKIPPED, observed=1.16, because="no limit")
    missing = Finding(label="int4/row", status=Status.SKIPPED, because="does not apply")
    values = build(check="rtn-holdout-quality", findings=(reported, missing))
    assert [row[1] for row in read_rows(values["findings"])] == ["Reported", "Skipped"]


def test_a_finding_that_has_no_figure_to_begin_with_is_not_called_not_finite() -> None:
    searched = Finding(label="search", status=Status.PASS, because="none breaks the law")
    broken = Finding(label="channel 5", status=Status.FAIL, limit=0.3, because="its value is not finite")
    values = build(check="super-activation-persists", findings=(searched, broken))
    assert [row[2] for row in read_rows(values["findings"])] == ["-", "not finite"]


def test_a_check_that_a_plugin_brought_has_a_card_of_its_own() -> None:
    values = build(check="my-own_check", quantity="", observed=2.0)
    assert (values["info"].title, values["info"].meaning) == ("My own check", "")
    assert read_measures(values) == {"Measured": "2", "Limit": "none: reported only"}


def test_code_in_a_message_is_set_as_code() -> None:
    values = build(status="fail", remedy="look with `sw-audit locate` first")
    assert [(cell.text, cell.code) for cell in values["remedy"]] == [
        ("Look with ", False),
        ("sw-audit locate", True),
        (" first.", False),
    ]


def test_the_table_at_a_glance_has_a_row_per_check_that_leads_to_its_details() -> None:
    record = make_record()
    context = Context(record, record.find_model("specimen"), "m")
    table = build_section("gates", context).table("Every gate")
    assert len(table.rows) == sum(check.is_about("model") for check in find_checks().values())
    collapse = next(row for row in read_rows(table) if row[0] == "Zeroing the super weights destroys the model")
    assert collapse[1:3] == ["Pass", "213.6"]
    details = build_section("details", context).blocks
    assert [row[0].href for row in table.rows] == [block.values["id"] for block in details]


def test_laws_stand_in_a_table_of_their_own_with_what_others_measured() -> None:
    result = make_failing_evidence()
    policy = Policy(models=make_policy("broken").models)
    record = compose(judge_model(result, policy), policy=policy)
    context = Context(record, record.find_model("broken"), "m")
    laws = build_section("laws", context).table("Every law")
    rows = {row[0]: row for row in read_rows(laws)}
    collapse = rows["Zeroing the super weights destroys the model"]
    assert collapse[1] == "Does not hold"
    assert "times 214" in collapse[-1]
    gates = build_section("gates", context).table("Every gate")
    assert not {row[0] for row in read_rows(gates)} & rows.keys()
    assert len(gates.rows) + len(laws.rows) == len(record.verdicts)


def test_a_message_that_begins_with_a_parameters_name_keeps_its_spelling() -> None:
    values = build(status="fail", because="model.layers.1.mlp.down_proj.weight[5, 7]: it is gone")
    assert values["because"][0].text == "model.layers.1.mlp.down_proj.weight[5, 7]: it is gone."
    assert build(status="fail", because="it is gone")["because"][0].text == "It is gone."
