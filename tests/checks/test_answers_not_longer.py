from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.descent import judge_descent, make_descent_evidence, make_descent_policy

from sw_audit.checks.answers_not_longer import find_quantile
from sw_audit.record.descent import AnswerLength
from sw_audit.record.verdict import Status, Verdict

CHECK = "answers-not-longer"
LIMIT = 128


def make_answers(*lengths: tuple[int | None, int | None], limit: int = LIMIT) -> tuple[AnswerLength, ...]:
    """Return answers of so many tokens by the parent and by the descendant; `None` does not end."""
    return tuple(
        AnswerLength(
            prompt=f"What is {number}?",
            limit=limit,
            parent=limit if theirs is None else theirs,
            descendant=limit if ours is None else ours,
            parent_ends=theirs is not None,
            descendant_ends=ours is not None,
            tail="and so on and" if ours is None else "",
        )
        for number, (theirs, ours) in enumerate(lengths)
    )


def judge(answers: Sequence[AnswerLength], unasked: str = "", **policy: Any) -> Verdict:
    evidence = make_descent_evidence(answers=tuple(answers), unasked=unasked)
    return judge_descent(CHECK, evidence, make_descent_policy(**policy))


def test_the_median_ratio_has_the_interval_of_a_sign_test() -> None:
    # Of 16 tosses of a coin at most 3 are heads with a chance of 697 / 65536 = 0.011, at most 4 with 0.038: so the
    # ends of an interval of 95 % are the fourth least and the fourth largest ratio.
    ratios = 2 * (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.35, 1.4)
    verdict = judge(make_answers(*((20, round(20 * ratio)) for ratio in ratios)))
    assert verdict.status is Status.PASS
    assert verdict.observed == pytest.approx(1.15)
    assert (verdict.low, verdict.high) == pytest.approx((0.9, 1.35))
    assert (verdict.limit, verdict.quantity) == (1.5, "tokens to the end over the parent's, median of prompts")
    assert "10 are longer than the parent's and 4 shorter" in verdict.because


def test_answers_that_are_certainly_longer_fail_and_those_that_may_be_are_told() -> None:
    assert judge(make_answers(*((20, 32) for _ in range(8)))).status is Status.FAIL
    # One of eight is at 1.5 exactly, which is allowed; so the median may be.
    undecided = judge(make_answers((20, 30), *((20, 32) for _ in range(7))))
    assert undecided.status is Status.SKIPPED
    assert "too few answers to tell; `[descent] answer_prompts`" in undecided.because
    assert undecided.findings[0].status is Status.INCONCLUSIVE


def test_an_answer_that_reaches_the_limit_is_at_least_so_long() -> None:
    # 128 of at most 64 tokens, at least twice as long, whatever comes after.
    verdict = judge(make_answers(*((64, None) for _ in range(12))))
    assert verdict.status is Status.FAIL
    assert verdict.low == 2.0
    assert verdict.high is None
    # 128 of 100 tokens is at least 1.28 times, and may be any more: of the ratio nothing is certain.
    verdict = judge(make_answers(*((100, None) for _ in range(4)), *((100, 100) for _ in range(36))))
    assert verdict.status is Status.PASS
    ratio = judge(make_answers(*((100, None) for _ in range(8)))).findings[0]
    assert (ratio.status, ratio.low, ratio.high) == (Status.INCONCLUSIVE, 1.28, None)


def test_prompts_after_which_both_run_on_say_nothing_of_which_is_longer() -> None:
    verdict = judge(make_answers(*((20, 20) for _ in range(20)), *((None, None) for _ in range(12))))
    assert verdict.status is Status.PASS
    assert "of 20 answers (12 more reach the limit in both)" in verdict.because


def test_a_parent_that_runs_on_where_the_descendant_ends_makes_it_no_longer() -> None:
    verdict = judge(make_answers(*((None, 20) for _ in range(16)), *((20, 20) for _ in range(16))))
    assert verdict.status is Status.PASS
    assert verdict.low == 0.0


def test_answers_that_run_on_fail_where_the_median_is_as_it_was() -> None:
    # Half of 40 prompts are answered as before, and 20 never end where the parent's took 100 tokens.
    verdict = judge(make_answers(*((10, 10) for _ in range(20)), *((100, None) for _ in range(20))))
    assert verdict.status is Status.FAIL
    assert verdict.quantity == "prompts more that it runs on after"
    assert (verdict.observed, verdict.limit) == (0.5, 0.25)
    assert "20 of 40 answers that the parent ends reach the limit, 0 of 0 others end" in verdict.because
    told = [one for one in verdict.findings if one.label.startswith("to 'What is")]
    assert len(told) == 8
    assert "it is at 'and so on and'" in told[0].because


def test_as_many_that_end_now_outweigh_those_that_run_on() -> None:
    verdict = judge(
        make_answers(
            *((30, None) for _ in range(3)), *((None, 30) for _ in range(3)), *((30, 30) for _ in range(26))
        )
    )
    assert verdict.status is Status.PASS
    run_on = verdict.findings[1]
    assert run_on.observed == 0.0
    assert "3 of 29 answers that the parent ends reach the limit, 3 of 3 others end" in run_on.because


def test_median_and_tail_are_told_as_at_least_where_they_fall_on_what_does_not_end() -> None:
    verdict = judge(make_answers(*((10, 12) for _ in range(19)), (50, None)))
    median, tail = (
        next(one for one in verdict.findings if one.label == name) for name in ("median", "95th percentile")
    )
    assert median.because == "12 tokens to the end, the parent 10: 1.2 times"
    # Of 20 answers 19 are within the 95th percentile.
    assert tail.because == "12 tokens to the end, the parent 10: 1.2 times"
    verdict = judge(make_answers(*((10, 12) for _ in range(18)), (50, None), (50, 60)))
    tail = next(one for one in verdict.findings if one.label == "95th percentile")
    assert tail.because == "60 tokens to the end, the parent 50: 1.2 times"
    verdict = judge(make_answers(*((10, None) for _ in range(10)), *((None, 10) for _ in range(9))))
    tail = next(one for one in verdict.findings if one.label == "95th percentile")
    assert (
        "at least 128 tokens to the end, the parent at least 128, of which the ratio is not known" in tail.because
    )


lengths = st.lists(st.tuples(st.integers(1, LIMIT), st.booleans()), min_size=1, max_size=40)


@given(lengths, st.sampled_from([0.5, 0.95]))
def test_what_lies_behind_the_limit_changes_a_quantile_only_where_it_is_told_as_at_least(
    drawn: list[tuple[int, bool]], share: float
) -> None:
    cut = [(length if ends else LIMIT, ends) for length, ends in drawn]
    found, known = find_quantile(cut, share)
    for behind in (LIMIT, 10 * LIMIT):
        whole = [(length if ends else behind, True) for length, ends in cut]
        true, _ = find_quantile(whole, share)
        assert true == found if known else true >= found


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 127), st.integers(1, 127)), min_size=6, max_size=40), st.integers(0, 20))
def test_longer_answers_never_make_a_better_verdict(drawn: list[tuple[int, int]], longer: int) -> None:
    rank = {Status.PASS: 0, Status.SKIPPED: 1, Status.FAIL: 2}
    before = judge(make_answers(*drawn))
    after = judge(
        make_answers(*((theirs, ours + longer if ours + longer < LIMIT else None) for theirs, ours in drawn))
    )
    observed = before.findings[0].observed
    assert observed is not None
    assert math.isfinite(observed)
    assert rank[after.status] >= rank[before.status]


def test_logits_that_are_not_finite_fail() -> None:
    sound = make_answers(*((20, 20) for _ in range(20)))
    broken = sound[0].model_copy(update={"finite": False, "descendant_ends": False})
    verdict = judge((broken, *sound[1:]))
    assert verdict.status is Status.FAIL
    assert "after 1 of 20 prompts the logits of the descendant are not finite" in verdict.because


def test_few_prompts_and_a_parent_that_never_ends_decide_nothing() -> None:
    few = judge(make_answers((20, 200), (20, 200)))
    assert few.status is Status.SKIPPED
    assert "too few answers to tell" in few.because
    silent = judge(make_answers(*((None, 20) for _ in range(20))))
    assert silent.status is Status.SKIPPED
    assert "None of the parent's answers to 20 prompts ends within 128 tokens" in silent.because


def test_without_answers_it_says_why() -> None:
    switched_off = judge((), answer_prompts=0)
    assert switched_off.status is Status.SKIPPED
    assert "[descent] answer_prompts" in switched_off.because
    assert "the parent has no chat template" in judge((), "the parent has no chat template").because
    assert judge(()).status is Status.INCONCLUSIVE
