from __future__ import annotations

import pytest
from support.evidence import change_model, make_record
from sw_audit_reports.cards import build_cards, summarize_cards
from sw_audit_reports.page import Card

from sw_audit.checks.info import CHECKS
from sw_audit.record.record import Record
from sw_audit.record.verdict import Finding, Status, Verdict


def build(**figures: object) -> Card:
    values = {"check": "prune-collapses", "model": "specimen", "status": "pass", "because": "it is so"}
    verdict = Verdict.model_validate({**values, "quantity": "perplexity ratio", **figures})
    record = change_model(make_record(windows=8, items=8), verdicts=(verdict,))
    [card] = build_cards(record, "specimen", "m")
    return card


def read_terms(card: Card) -> dict[str, str]:
    return {term.name: "".join(cell.text for cell in term.cells) for term in card.terms}


def read_rows(record: Record) -> list[list[str]]:
    table = summarize_cards(record, "specimen", "m")
    return [[cell.badge.word if cell.badge else cell.text for cell in row] for row in table.rows]


def test_a_card_says_what_was_measured_its_interval_and_the_limit() -> None:
    card = build(observed=213.61, low=211.1, high=216.3, limit=10.0, protocol="aad14420ddc6")
    assert read_terms(card) == {
        "Perplexity ratio": "213.6",
        "95 % interval": "[211.1, 216.3]",
        "Limit": "at least 10",
        "Protocol": "aad14420ddc6",
    }
    assert card.badge.word == "Pass"
    assert "".join(cell.text for cell in card.because) == "It is so."


@pytest.mark.parametrize(
    ("check", "status", "shown"),
    [
        ("prune-collapses", "pass", "not finite"),
        ("rtn-holdout-quality", "fail", "not finite"),
        ("rtn-holdout-quality", "inconclusive", "not measured"),
        ("super-weight-located", "fail", "not measured"),
    ],
)
def test_a_missing_figure_is_called_what_it_is(check: str, status: str, shown: str) -> None:
    assert read_terms(build(check=check, status=status))["Perplexity ratio"] == shown


def test_a_skipped_check_shows_its_reason_and_no_figures() -> None:
    card = build(status="skipped", limit=10.0)
    assert read_terms(card) == {}
    assert card.badge.status == "skipped"


@pytest.mark.parametrize(
    ("check", "status", "observed", "limit"),
    [
        ("stopword-shift", "pass", 1.3, "at most 2"),
        ("stopword-shift", "fail", 1.3, "at least 2"),
        ("stopword-shift", "inconclusive", 1.3, "2"),
        ("mine", "fail", 3.0, "at most 2"),
        ("placebo-harmless", "inconclusive", 1.3, "at most 2"),
        ("holdout-beats-plain-rtn", "fail", 3.0, "at least 2"),
    ],
)
def test_the_side_of_the_limit_is_known_or_follows_from_the_verdict(
    check: str, status: str, observed: float, limit: str
) -> None:
    assert read_terms(build(check=check, status=status, observed=observed, limit=2.0))["Limit"] == limit


def test_a_finding_without_a_limit_is_reported_and_not_skipped() -> None:
    reported = Finding(label="int4/tensor", status=Status.SKIPPED, observed=1.16, because="no limit")
    missing = Finding(label="int4/row", status=Status.SKIPPED, because="does not apply")
    card = build(check="rtn-holdout-quality", findings=(reported, missing))
    assert card.findings is not None
    assert [row[1].badge.word for row in card.findings.rows if row[1].badge] == ["Reported", "Skipped"]


def test_a_finding_that_has_no_figure_to_begin_with_is_not_called_not_finite() -> None:
    searched = Finding(label="search", status=Status.PASS, because="none breaks the law")
    broken = Finding(label="channel 5", status=Status.FAIL, limit=0.3, because="its value is not finite")
    card = build(check="super-activation-persists", findings=(searched, broken))
    assert card.findings is not None
    assert [row[2].text for row in card.findings.rows] == ["\N{EN DASH}", "not finite"]


def test_a_check_that_a_plugin_brought_has_a_card_of_its_own() -> None:
    card = build(check="my-own_check", quantity="", observed=2.0)
    assert (card.title, card.meaning) == ("My own check", "")
    assert read_terms(card) == {"Measured": "2", "Limit": "none: reported only"}


def test_code_in_a_message_is_set_as_code() -> None:
    card = build(status="fail", remedy="look with `sw-audit locate` first")
    assert [(cell.text, cell.code) for cell in card.remedy] == [
        ("Look with ", False),
        ("sw-audit locate", True),
        (" first.", False),
    ]


def test_the_table_at_a_glance_has_a_row_per_check_that_leads_to_its_card() -> None:
    record = make_record()
    rows = read_rows(record)
    assert len(rows) == sum(check.scope == "model" for check in CHECKS)
    assert rows[2][:3] == ["Zeroing the super weights destroys the model", "Pass", "213.6"]
    anchors = [row[0].href for row in summarize_cards(record, "specimen", "m").rows]
    assert anchors == [card.id for card in build_cards(record, "specimen", "m")]


def test_a_message_that_begins_with_a_parameters_name_keeps_its_spelling() -> None:
    card = build(status="fail", because="model.layers.1.mlp.down_proj.weight[5, 7]: it is gone")
    assert card.because[0].text == "model.layers.1.mlp.down_proj.weight[5, 7]: it is gone."
    assert build(status="fail", because="it is gone").because[0].text == "It is gone."
