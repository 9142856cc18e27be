"""Each sentence of the annex follows from facts of the record that are put there on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pytest
from support.baselines import hold
from support.descent_pages import make_evidence as make_descendant
from support.evidence import change_model, compose, make_evidence, make_record
from sw_audit_reports import annex_facts as facts
from sw_audit_reports.annex_facts import Statement

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import Policy
from sw_audit.record.checkpoint import WeightsReport
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.redaction import Redaction
from sw_audit.record.verdict import Status, Verdict

ADA = Waiver(check="c1", model="*", until=date(2999, 12, 31), owner="Ada", reason="known")
EMPTY = compose()


def judge(*verdicts: Verdict, **changes: object) -> Record:
    result = make_evidence(windows=4, items=4).model_copy(update={"verdicts": verdicts, **changes})
    return compose(result)


def conclude(status: Status, number: int = 1, **changes: object) -> Verdict:
    return Verdict(check=f"c{number}", model="specimen", status=status, because="so").model_copy(update=changes)


PASS, FAIL, DOUBT, SKIPPED = Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.SKIPPED
MEASURED = conclude(PASS, observed=1.0, low=0.9, high=1.1, quantity="ratio")
COUNTED = conclude(PASS, 2, observed=0, quantity="flaws")
QUICK = Policy(effort="quick", inconclusive="warn", seed=7)


def change_identity(**changes: object) -> Record:
    result = make_evidence(windows=4, items=4)
    return compose(result.model_copy(update={"model": result.model.model_copy(update=changes)}))


@pytest.mark.parametrize(
    ("statement", "record", "said"),
    [
        (facts.tell_verdicts, judge(MEASURED, conclude(FAIL, 2), conclude(SKIPPED, 3)),
         ["2 checks judged on 1 model: 1 passed, 1 failed"]),
        (facts.tell_rules, compose(policy=QUICK),
         ["Every limit stands in the record's policy beside its figure; an undecided gate only warns"]),
        (facts.tell_intervals, judge(MEASURED, COUNTED), ["95 % intervals on 1 of 2 judged figures"]),
        (facts.lack_intervals, judge(MEASURED, COUNTED),
         ["1 judged figure without an interval: counts and looks at files are no sample"]),
        (facts.tell_metrics, judge(MEASURED, COUNTED), ["Figures judged: ratio and flaws"]),
        (facts.tell_gates, judge(MEASURED, conclude(PASS, 2, level="law")),
         ["1 gate judged: checks that one would stop a release for"]),
        (facts.tell_remedies, judge(conclude(FAIL, remedy="mend"), conclude(DOUBT, 2)),
         ["1 of 2 open gates with what to do about it"]),
        (facts.tell_waivers, judge(conclude(FAIL, waiver=ADA)),
         ["`c1` on specimen waived until 2999-12-31 by Ada: known"]),
        (facts.lack_owners, judge(conclude(FAIL, waiver=ADA)), []),
        (facts.lack_owners, judge(conclude(FAIL)),
         ["The record names nobody who answers for the model: no waiver was needed or given"]),
        (facts.lack_decisions, judge(conclude(FAIL), conclude(DOUBT, 2), conclude(DOUBT, 3, level="law")),
         ["1 gate failed and not waived: c1 on specimen",
          "1 gate INCONCLUSIVE: c2 on specimen", "1 law undecided"]),
        (facts.lack_decisions, judge(*(conclude(FAIL, number) for number in range(5))),
         ["5 gates failed and not waived: 5 on specimen"]),
        (facts.lack_decisions, judge(conclude(FAIL, waiver=ADA)), []),
        (facts.lack_checks, judge(conclude(SKIPPED), conclude(SKIPPED, 2), conclude(SKIPPED, 3, because="no")),
         ["2 verdicts skipped: so", "1 verdict skipped: no"]),
        (facts.lack_checks, judge(*(conclude(SKIPPED, because=word) for word in "abc")),
         ["1 verdict skipped: a", "1 verdict skipped: b", "Skipped for 1 other reason, each in the record"]),
        (facts.lack_laws, compose(policy=QUICK),
         ["Laws, the claims on how the weights act, were not measured under the effort `quick`"]),
        (facts.lack_laws, EMPTY, []),
        (facts.lack_models, EMPTY, ["No model was audited"]),
        (facts.lack_models, compose(ModelFailure(model="gone", message="x", stopped="time")),
         ["1 model not audited: gone", "The run ended before everything was measured: gone"]),
        (facts.tell_weights, change_identity(digest="a" * 64),
         ["Weights identified by the sha256 of their files: specimen `aaaaaaaaaaaa`"]),
        (facts.lack_digests, change_identity(digest="a" * 64), []),
        (facts.tell_weights, change_identity(digest=""), []),
        (facts.lack_digests, change_identity(digest=""), ["Weights not digested: specimen"]),
        (facts.tell_files, judge(weights=WeightsReport(files=2, tensors=9, serious=1, manifest=True)),
         ["2 weight files looked at without running code: 1 serious flaw found",
          "Files of 1 model held against a manifest of digests"]),
        (facts.lack_files, judge(weights=WeightsReport(files=2, tensors=9)), []),
        (facts.lack_files, judge(weights=None), ["No static look at the files of specimen"]),
        (facts.lack_parents, judge(),
         ["No parent measured beside specimen: what making it changed is not shown"]),
        (facts.tell_parents, judge(), []),
        (facts.tell_parents, compose(make_descendant("child", kept=True)),
         ["1 model measured beside the parent, window by window: parent"]),
        (facts.lack_parents, compose(make_descendant("child", kept=True)), []),
        (facts.tell_baselines, compose(hold()), ["1 model held against an earlier record: main of 2026-01-01"]),
        (facts.lack_baselines, compose(hold()), []),
        (facts.lack_baselines, judge(), ["No earlier record beside specimen: no change over time is shown"]),
        (facts.lack_texts, judge(), ["One text only for specimen"]),
        (facts.tell_placebos, judge(measurements=()), []),
        (facts.lack_placebos, judge(measurements=()),
         ["No placebo was measured: what the same edit does to other weights is not shown"]),
        (facts.tell_interventions, judge(measurements=()), []),
        (facts.lack_use, EMPTY, []),
        (facts.tell_log, make_record().model_copy(update={"policy": QUICK}),
         ["Dated 2026-01-02T03:04:05+00:00, written by sw-audit 0.1.0",
          "Measured with Python 3.11.9, numpy 2.4.6, torch 2.13.0 and transformers 5.23.0, on Linux-6.1-x86_64",
          "Seed 7; every figure is in the record, window by window"]),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_record_holds(statement: Statement, record: Record, said: Sequence[str]) -> None:
    assert list(statement(record)) == said


def test_placebos_and_edits_are_counted() -> None:
    record = compose(make_evidence(windows=4, items=4))
    arms = [one.arm.name for one in record.results[0].measurements]
    placebos = sum(name.startswith("placebo") for name in arms)
    assert placebos
    assert list(facts.tell_placebos(record)) == [
        f"{placebos} placebos: the same edit of other weights, measured alike"
    ]
    [edited] = facts.tell_interventions(record)
    assert edited.startswith(f"{len(arms)} measurements ")
    assert list(facts.lack_placebos(record)) == []


def test_a_second_text_is_told_and_none_is_told_to_be_the_only_one() -> None:
    child: ModelResult = make_descendant("child", kept=True)
    assert child.descent is not None
    [first, *_] = child.descent.texts
    other = first.protocol.model_copy(
        update={"corpus": first.protocol.corpus.model_copy(update={"name": "wiki.txt", "sha256": "f" * 64})}
    )
    both = child.descent.model_copy(update={"texts": (first, first.model_copy(update={"protocol": other}))})
    record = compose(child.model_copy(update={"descent": both}))
    assert list(facts.lack_texts(record)) == []
    assert any(
        said.startswith("Text `ffffffffffff` (sha256)") and "wiki.txt" in said for said in facts.tell_texts(record)
    )


def test_what_was_redacted_stands_beside_the_missing_signature() -> None:
    record = EMPTY.model_copy(update={"redacted": (Redaction(kind="secret", times=2),)})
    assert list(facts.lack_signature(record))[1:] == ["Left out of the record's texts: secret 2 times"]
    assert len(list(facts.lack_signature(EMPTY))) == 1


def test_of_many_models_a_few_are_named_and_the_others_counted() -> None:
    [result] = change_model(judge(), verdicts=()).results
    named = [
        result.model_copy(update={"model": result.model.model_copy(update={"id": f"m{n}"})}) for n in range(6)
    ]
    assert list(facts.lack_texts(compose(*named))) == ["One text only for m0, m1, m2, m3 and 2 more"]
