from __future__ import annotations

import pytest
from support.descent_pages import WAIVER
from support.evidence import BASELINE_PERPLEXITY, make_evidence, make_record
from sw_audit_reports.verdicts import conclude_record, list_metrics, summarize_record, tally

from sw_audit.record.record import Record
from sw_audit.record.standing import conclude_model
from sw_audit.record.verdict import Evidence, Status, Verdict


def test_the_worst_model_decides_and_one_that_could_not_be_audited_fails() -> None:
    record = make_record()
    models = {model.id: model for model in record.models}
    assert conclude_model(models["specimen"]) is Status.PASS
    assert conclude_model(models["broken"]) is Status.FAIL
    assert conclude_model(models["gone"]) is Status.FAIL
    assert conclude_record(record) is Status.FAIL
    assert summarize_record(record) == "Of 4 models, 2 passed, 1 failed and 1 could not be audited."
    alone = record.model_copy(
        update={"models": (record.results[0].model_copy(update={"verdicts": ()}), *record.failures)}
    )
    assert conclude_record(alone) is Status.FAIL


def test_nothing_decided_is_inconclusive_and_never_a_pass() -> None:
    record = make_record()
    skipped = (
        result.model_copy(
            update={
                "verdicts": tuple(one.model_copy(update={"status": Status.SKIPPED}) for one in result.verdicts)
            }
        )
        for result in record.results
    )
    silent = record.model_copy(update={"models": tuple(skipped)})
    assert conclude_record(silent) is Status.INCONCLUSIVE
    empty = Record(tool=record.tool, created="", environment=record.environment, policy=record.policy)
    assert conclude_record(empty) is Status.INCONCLUSIVE
    assert summarize_record(empty) == "No model was audited."


def test_the_tally_counts_what_happened_and_leaves_out_what_did_not() -> None:
    verdicts = [
        Verdict(check="a-check", model="m", status=status, because="of a reason")
        for status in (Status.PASS, Status.SKIPPED, Status.PASS)
    ]
    assert [(badge.status, badge.word) for badge in tally(verdicts)] == [
        ("pass", "2 passed"),
        ("skipped", "1 skipped"),
    ]
    waived = Verdict(check="a-check", model="m", status=Status.FAIL, because="of a reason", waiver=WAIVER)
    assert [badge.word for badge in tally([*verdicts, waived])] == ["2 passed", "1 skipped", "1 waived"]


def test_laws_are_counted_after_gates_by_whether_they_hold_and_fail_no_model() -> None:
    ended = {Status.PASS: 2, Status.FAIL: 1, Status.INCONCLUSIVE: 1}
    laws = tuple(
        Verdict(check="a-law", model="m", level="law", status=status, because="of a reason")
        for status, many in ended.items()
        for _ in range(many)
    )
    gate = Verdict(check="a-gate", model="m", status=Status.PASS, because="of a reason")
    words = ["1 passed", "2 laws hold", "1 law does not hold", "1 law undecided"]
    assert [badge.word for badge in tally((gate, *laws))] == words
    assert "fail" not in [badge.status for badge in tally(laws)]
    result = make_record().results[0]
    assert conclude_model(result.model_copy(update={"verdicts": (gate, *laws)})) is Status.PASS
    assert conclude_model(result.model_copy(update={"verdicts": laws})) is Status.PASS
    assert conclude_model(result.model_copy(update={"verdicts": laws[-1:]})) is Status.INCONCLUSIVE


def test_the_figures_of_a_model_are_its_own_and_those_that_verdicts_measured_on_text() -> None:
    evidence = make_evidence(windows=8)
    signature, sample = evidence.protocol.signature, Evidence(count=8, tokens=504)
    judged = Verdict(
        check="c", model="m", status=Status.PASS, because="so", quantity="ratio", observed=1.5, low=1.25
    )
    verdicts = (
        judged.model_copy(update={"protocol": signature, "evidence": sample}),
        judged.model_copy(update={"protocol": signature, "observed": None}),
        judged,
    )
    [perplexity, accuracy, ratio] = list_metrics(evidence.model_copy(update={"verdicts": verdicts}))
    assert perplexity.value == pytest.approx(BASELINE_PERPLEXITY)
    assert (perplexity.evidence, perplexity.verdict) == ("8 windows", None)
    assert accuracy.name == "multiple-choice accuracy"
    assert (ratio.name, ratio.value, ratio.low, ratio.high) == ("ratio", 1.5, 1.25, None)
    assert (ratio.protocol, ratio.evidence) == (evidence.protocol, "8 windows, 504 tokens")
