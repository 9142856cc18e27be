from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.descent import judge_descent, make_continuation, make_descent_evidence, make_descent_policy
from support.evidence import make_evidence, make_prompt_continuations
from support.verdicts import judge_one

from sw_audit.checks.generation_sane import (
    GenerationSaneLimits,
    measure_dominance,
    measure_repetition,
    measure_stuck,
)
from sw_audit.checks.limits import CheckLimits
from sw_audit.record.descent import Continuation
from sw_audit.record.verdict import Status, Verdict

CHECK = "generation-sane"
VARIED = tuple(range(40))
LOOP = (1, 2, 3, 4, 5) * 8
STUCK = (7,) * 40


def judge(*continuations: Continuation, allowed: int = 0) -> Verdict:
    checks = CheckLimits({"generation-sane": GenerationSaneLimits(maximum_failures=allowed)})
    policy = make_descent_policy().model_copy(update={"checks": checks})
    return judge_descent(CHECK, make_descent_evidence(continuations=continuations), policy)


def test_repetition_is_the_share_of_runs_of_four_that_came_before() -> None:
    assert measure_repetition(VARIED) == 0
    # Of 40 tokens 37 runs of four, five of them different.
    assert measure_repetition(LOOP) == pytest.approx(1 - 5 / 37)
    assert measure_repetition(STUCK) == pytest.approx(1 - 1 / 37)
    assert measure_repetition((1, 2, 3)) == 0


def test_dominance_is_the_share_of_the_most_frequent_token() -> None:
    assert measure_dominance((1, 1, 1, 2)) == 0.75
    assert measure_dominance(()) == 0


@given(st.lists(st.integers(0, 5), max_size=60))
def test_both_are_shares(tokens: list[int]) -> None:
    assert 0 <= measure_repetition(tokens) < 1
    assert 0 <= measure_dominance(tokens) <= 1


@pytest.mark.parametrize(
    ("tokens", "words"), [(LOOP, "it loops"), (STUCK, "one token makes a share of 1"), ((), "it ends at once")]
)
def test_a_continuation_that_falls_apart_fails_and_is_quoted(tokens: Sequence[int], words: str) -> None:
    verdict = judge(make_continuation(VARIED), make_continuation(tokens))
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit) == (1, 0)
    assert words in verdict.because
    assert "the parent" in verdict.because
    assert verdict.remedy is not None


def test_what_is_said_differently_but_soundly_passes_and_it_is_told_where_they_part() -> None:
    verdict = judge(make_continuation((0, 1, 2, *range(100, 137))))
    assert verdict.status is Status.PASS
    parted = verdict.findings[-1]
    assert parted.observed == 3
    assert "they part after 3 of 40 new tokens" in parted.because
    assert "they never part" in judge(make_continuation(VARIED)).findings[-1].because


def test_logits_that_are_not_finite_fail_however_the_tokens_look() -> None:
    verdict = judge(make_continuation(VARIED[:12], finite=False))
    assert verdict.status is Status.FAIL
    assert "after 12 tokens its logits are not finite" in verdict.because


def test_a_loop_that_the_parent_has_as_well_is_not_laid_to_the_descendant() -> None:
    inherited = make_continuation(LOOP, LOOP)
    assert judge(inherited, make_continuation(VARIED)).status is Status.PASS
    alone = judge(inherited)
    assert alone.status is Status.INCONCLUSIVE
    assert "the parent's own falls apart" in alone.because
    assert alone.remedy is not None
    assert "[corpus] source" in alone.remedy


def test_a_fault_that_the_parent_has_not_counts_beside_one_that_it_has() -> None:
    # The parent loops over five tokens; stuck at one token is worse than that.
    assert judge(make_continuation(STUCK, LOOP)).status is Status.FAIL


def test_a_parent_that_is_degenerate_excuses_nothing_that_is_not_finite() -> None:
    assert judge(make_continuation((), LOOP, finite=False)).status is Status.FAIL


def test_of_a_few_tokens_nothing_can_be_told() -> None:
    verdict = judge(make_continuation((7, 7, 7), (1, 2)))
    assert verdict.status is Status.INCONCLUSIVE
    assert "fewer than 16 tokens" in verdict.because


def test_so_many_failures_may_be_allowed() -> None:
    pair = (make_continuation(STUCK), make_continuation(VARIED))
    assert judge(*pair, allowed=1).status is Status.PASS
    assert judge(*pair, make_continuation(LOOP), allowed=1).status is Status.FAIL


def test_nothing_generated_is_inconclusive() -> None:
    verdict = judge()
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy == "Run the audit again with this check selected."


ALTERNATING = (1, 2) * 20
ROUND = (1, 2, 3) * 13


def judge_alone(*new_tokens: Sequence[int], finite: bool = True) -> Verdict:
    first, *others = make_prompt_continuations(*new_tokens)
    continuations = (first.model_copy(update={"finite": finite}), *others)
    return judge_one(CHECK, make_evidence().model_copy(update={"continuations": continuations}))


def test_a_token_is_stuck_to_if_it_is_one_of_the_two_before() -> None:
    assert measure_stuck(VARIED) == 0
    assert measure_stuck(STUCK) == measure_stuck(ALTERNATING) == 1
    assert measure_stuck(ROUND) == 0
    # Of the tokens from the third on the third and the fifth: 7 7 [7] 8 [7].
    assert measure_stuck((7, 7, 7, 8, 7)) == pytest.approx(2 / 3)
    assert measure_stuck((7, 7)) == measure_stuck(()) == 0


def test_a_model_by_itself_passes_where_some_prompts_leave_it_stuck_and_fails_where_nearly_all_do() -> None:
    some = judge_alone(VARIED, VARIED, STUCK, ALTERNATING, STUCK)
    assert (some.status, some.observed, some.limit) == (Status.PASS, 3, 3)
    most = judge_alone(VARIED, ALTERNATING, STUCK, ALTERNATING, STUCK)
    assert (most.status, most.observed, most.limit) == (Status.FAIL, 4, 3)
    assert most.remedy is not None


def test_loops_of_a_model_by_itself_are_told_and_decide_nothing() -> None:
    verdict = judge_alone(ROUND, ROUND)
    assert verdict.status is Status.PASS
    assert "it loops" in verdict.findings[0].because


def test_logits_that_are_not_finite_after_one_prompt_fail_a_model_by_itself() -> None:
    verdict = judge_alone((), VARIED, VARIED, VARIED, VARIED, finite=False)
    assert verdict.status is Status.FAIL
    assert "not finite" in verdict.because


def test_a_model_by_itself_that_ends_at_once_after_every_prompt_fails() -> None:
    assert judge_alone((), (), ()).status is Status.FAIL
    assert judge_alone((), VARIED, VARIED).status is Status.PASS


def test_a_short_continuation_does_not_make_the_few_others_decide() -> None:
    assert judge_alone(STUCK, (1, 2), (1, 2), (1, 2)).status is Status.PASS


@pytest.mark.parametrize(
    ("entropy", "status"), [(math.log(6.25) - 1.51, Status.FAIL), (0.5, Status.PASS), (None, Status.PASS)]
)
def test_text_that_is_predicted_worse_than_by_token_frequencies_fails_whatever_is_generated(
    entropy: float | None, status: Status
) -> None:
    # The model's perplexity is 6.25, or 1.83 nats; it may be 1.5 nats above the entropy of the frequencies.
    verdict = judge_one(CHECK, make_evidence().model_copy(update={"unigram_nats": entropy}))
    assert verdict.status is status
    if status is Status.FAIL:
        assert verdict.quantity == "nats per token of the text"
        assert verdict.observed == pytest.approx(math.log(6.25), abs=0.01)


@pytest.mark.parametrize("continuations", [(range(15), range(3)), None])
def test_what_is_too_short_to_tell_anything_is_inconclusive(continuations: tuple[range, ...] | None) -> None:
    made = make_prompt_continuations(*continuations) if continuations else ()
    verdict = judge_one(CHECK, make_evidence().model_copy(update={"continuations": made}))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None
