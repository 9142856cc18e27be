"""What an audit comes to, and how verdicts are told."""

from __future__ import annotations

from datetime import date

import pytest
from support.evidence import compose
from support.many import make_many

from sw_audit.checks.explain import (
    BAD_INPUT,
    FAILED,
    INCONCLUSIVE,
    PASSED,
    conclude,
    count_verdicts,
    end_case,
    explain_verdict,
    list_skipped,
    list_unproved,
    list_worst,
    write_figure,
)
from sw_audit.policy.model_policy import Level, Waiver
from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Paste, Status, Verdict

P, F, D, S = Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.SKIPPED
WAIVER = Waiver(check="c", model="*", until=date(2999, 1, 1), owner="lab", reason="known")


def judge(*statuses: Status, inconclusive: str = "fail", waived: bool = False, level: Level = "gate") -> Record:
    verdicts = tuple(
        Verdict(check="c", model="m", status=status, level=level, because="so", waiver=WAIVER if waived else None)
        for status in statuses
    )
    policy = Policy.model_validate({"inconclusive": inconclusive})
    return compose(ModelFailure(model="m", message="", verdicts=verdicts), policy=policy)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([judge(P, S)], PASSED),
        ([judge(P, D, F)], FAILED),
        ([judge(P), judge(F)], FAILED),
        ([judge(P, D)], INCONCLUSIVE),
        ([judge(P, D, inconclusive="warn")], PASSED),
        ([judge(S)], INCONCLUSIVE),
        ([], INCONCLUSIVE),
        ([judge(F, D, waived=True)], PASSED),
        ([judge(P), judge(F, D, level="law")], PASSED),
        ([judge(F, level="law")], PASSED),
        ([judge(S), judge(D, level="law")], INCONCLUSIVE),
    ],
)
def test_a_failure_weighs_more_than_a_doubt_and_what_is_waived_weighs_nothing(
    records: list[Record], code: int
) -> None:
    assert conclude(records) == code
    assert conclude(records, complete=False) == BAD_INPUT


@pytest.mark.parametrize("inconclusive", ["fail", "warn"])
def test_a_run_that_was_stopped_is_a_doubt_unless_a_gate_has_failed(inconclusive: str) -> None:
    failure = ModelFailure(model="m", message="", stopped="the run was stopped by Ctrl-C")
    stopped = compose(failure, policy=Policy.model_validate({"inconclusive": inconclusive}))
    assert conclude([judge(P), stopped]) == INCONCLUSIVE
    assert conclude([judge(P, F), stopped]) == FAILED


def test_verdicts_are_counted_by_status_and_waived_ones_apart() -> None:
    verdicts = [*judge(P, P, F, S).verdicts, *judge(F, waived=True).verdicts]
    assert count_verdicts(verdicts) == "2 pass, 1 fail, 1 skipped, 1 waived"
    assert list_skipped(verdicts) == ["skipped m c: so"]


def test_laws_are_counted_by_whether_they_hold() -> None:
    verdicts = [*judge(P, F).verdicts, *judge(P, P, F, D, level="law").verdicts]
    assert count_verdicts(verdicts) == "1 pass, 1 fail; laws: 2 holds, 1 does not hold, 1 undecided"
    assert count_verdicts(verdicts[2:]) == "laws: 2 holds, 1 does not hold, 1 undecided"
    assert list_unproved(verdicts) == ["does not hold: m c: so", "undecided: m c: so"]


@pytest.mark.parametrize(
    ("status", "level", "ending"),
    [(F, "gate", "fail"), (F, "law", "xfail"), (P, "law", "pass"), (D, "gate", "fail"), (D, "law", "skip")],
)
def test_a_law_that_does_not_hold_fails_no_test_case(status: Status, level: Level, ending: str) -> None:
    [verdict] = judge(status, level=level).verdicts
    assert end_case(verdict, "fail")[0] == ending


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({}, ""),
        ({"observed": 1.5}, "1.5"),
        ({"observed": 1.5, "low": 1.25, "high": 2}, "1.5 [1.25, 2]"),
        ({"observed": 1.5, "low": 1.25}, "1.5 [1.25, unbounded]"),
    ],
)
def test_a_figure_is_written_with_its_interval(figures: dict[str, float], text: str) -> None:
    assert write_figure(Verdict(check="c", model="m", status=P, because="", **figures)) == text


def test_lines_to_paste_are_told_as_they_are_pasted() -> None:
    keys = ", ".join(f'"generation_config.{number:060}"' for number in range(4))  # longer than any line of words
    lines = f"[descent]\nmay_differ = [{keys}]"
    verdict = Verdict(check="c", model="m", status=F, because="so", paste=(Paste(where="the policy", text=lines),))
    assert explain_verdict(verdict).endswith(f"\n  paste     the policy\n{lines}")
    one = verdict.model_copy(update={"paste": (Paste(where="a recipe", text="ignore=[]"),)})
    assert "paste" not in explain_verdict(one)  # its remedy holds it


def test_of_many_models_the_worst_are_told_in_a_row_each_and_the_others_in_a_line() -> None:
    [rows], others = list_worst(make_many().models)
    assert others == "6 of 10 models pass"
    assert rows == [
        ("gone", "NOT AUDITED", "0", "0", "0", "-", "-", "-"),
        ("tuned-2", "FAIL", "3", "0", "0", "super-weight-retained", "0.98", "0.25"),
        ("tuned-5", "FAIL", "2", "0", "1", "super-weight-retained", "0.98", "0.25"),
        ("alone", "INCONCLUSIVE", "0", "1", "0", "weights-intact", "-", "-"),
    ]
    [rows], others = list_worst(make_many().models * 10)
    assert len(rows) == 20
    assert others == "20 more do not pass, 60 of 100 models pass"
