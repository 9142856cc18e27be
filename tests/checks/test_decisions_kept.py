from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.descent import judge_descent, make_descent_evidence, make_descent_policy

from sw_audit.checks.statistics import rate_direction
from sw_audit.policy.policy import Policy
from sw_audit.record.descent import Decision, Decisions
from sw_audit.record.verdict import Status, Verdict

CHECK = "decisions-kept"
Pairs = Sequence[tuple[float | None, float | None]]


def make_decisions(pairs: Pairs, **changes: Any) -> Decisions:
    decisions = tuple(
        Decision(name=f"question {number}", parent=there, descendant=here)
        for number, (there, here) in enumerate(pairs)
    )
    return Decisions(**{"kind": "refuse", "sides": ("refuse", "comply"), "decisions": decisions, **changes})


def judge(*kinds: Decisions | Pairs, policy: Policy | None = None, **limits: Any) -> Verdict:
    decisions = tuple(kind if isinstance(kind, Decisions) else make_decisions(kind) for kind in kinds)
    policy = policy or make_descent_policy()
    given = {"checks": {CHECK: limits}}
    policy = Policy.model_validate({**policy.model_dump(by_alias=True, exclude_unset=True), **given})
    return judge_descent(CHECK, make_descent_evidence(decisions=decisions), policy)


@pytest.mark.parametrize(
    ("flips", "status"),
    [
        (0, Status.PASS),  # at most 1 - 0.025^(1/40) = 0.088
        (3, Status.PASS),  # 0.075, up to 0.204
        (8, Status.INCONCLUSIVE),  # 0.2 itself
        (15, Status.FAIL),  # 0.375, certainly above 0.227
    ],
)
def test_a_share_of_flips_must_be_certain(flips: int, status: Status) -> None:
    limit = 0.21
    pairs = [(2.0, -1.0)] * flips + [(2.0, 1.5)] * (40 - flips)
    verdict = judge(pairs, maximum_flips=limit)
    exact = binomtest(flips, 40).proportion_ci(0.95, method="exact")
    assert (verdict.low, verdict.high) == (pytest.approx(exact.low, abs=1e-9), pytest.approx(exact.high))
    assert (verdict.status, verdict.observed, verdict.limit) == (status, flips / 40, limit)


def test_what_the_parent_hardly_decides_is_left_out() -> None:
    sound = judge([(2.0, 2.0)] * 40 + [(0.9, -3.0)] * 40 + [(None, 1.0)] * 5)
    assert (sound.status, sound.observed) == (Status.PASS, 0)
    assert judge([(2.0, 2.0)] * 40 + [(0.9, -3.0)] * 40, minimum_margin=0.5).status is Status.FAIL


@pytest.mark.parametrize("here", [None, 0.0, -0.1])
def test_no_decision_is_a_flip(here: float | None) -> None:
    assert judge([(2.0, here)] * 40).status is Status.FAIL


def test_a_few_refusals_that_are_all_gone_do_not_drown_in_what_is_complied_with() -> None:
    verdict = judge([(3.0, -3.0)] * 6 + [(-3.0, -3.0)] * 54)
    # Of all only 0.1 are otherwise, of the refusals all: at least 0.025^(1/6) = 0.541.
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("refuse or comply: refuse: of 6 that the parent decides so 6 are otherwise")
    assert (verdict.observed, verdict.low) == (1.0, pytest.approx(0.025 ** (1 / 6)))
    [whole] = [finding for finding in verdict.findings if finding.label == "refuse or comply"]
    assert "6 from refuse and 0 from comply; McNemar's exact p = 0.03125" in whole.because  # 2 / 2^6


def test_a_side_of_its_own_passes_and_doubts_nothing() -> None:
    verdict = judge([(3.0, 3.0)] * 2 + [(-3.0, -3.0)] * 58)
    assert verdict.status is Status.PASS
    sides = [finding.status for finding in verdict.findings if "refuse or comply: " in finding.label]
    assert set(sides) == {Status.SKIPPED}


def test_the_worst_kind_decides_and_the_clearest_flips_are_named() -> None:
    flipped = [(1.0 + number, -1.0) for number in range(30)]
    verdict = judge(
        [(2.0, 2.0)] * 60, make_decisions(flipped, kind="tool", sides=("call", "answer")), maximum_flips=0.2
    )
    assert verdict.because.startswith(
        "call or answer: the parent decides 30 of 30 clearly, 30 call and 0 answer; 30"
    )
    named = [finding.label for finding in verdict.findings if "question" in finding.label]
    assert named == [f"call or answer: question {number}" for number in (29, 28, 27, 26, 25)]


def test_a_parent_that_decides_too_little_is_told_and_not_judged() -> None:
    # Of 16 without a flip up to 1 - 0.025^(1/16) = 0.206 could be; of 17, 0.195.
    few = judge([(2.0, 2.0)] * 16 + [(0.1, -0.1)] * 44)
    assert few.status is Status.SKIPPED
    assert "too few to be judged" in few.because
    assert judge([(2.0, 2.0)] * 17 + [(0.1, -0.1)] * 44).status is Status.PASS
    # What is certain is certain all the same.
    assert judge([(2.0, -2.0)] * 5 + [(0.1, -0.1)] * 55).status is Status.FAIL
    other = judge([(2.0, 2.0)] * 16, make_decisions([(2.0, 2.0)] * 30, kind="tool", sides=("call", "answer")))
    assert other.status is Status.PASS


def test_too_few_questions_of_ones_own_are_a_doubt() -> None:
    policy = make_descent_policy(decisions="own.jsonl")
    verdict = judge([(2.0, 2.0)] * 16, policy=policy)
    assert verdict.status is Status.INCONCLUSIVE
    assert "Ask more questions" in (verdict.remedy or "")


def test_questions_that_cannot_be_asked_are_skipped_with_the_reason() -> None:
    verdict = judge(make_decisions([], skipped="the parent has no chat template"))
    assert (verdict.status, verdict.because) == (
        Status.SKIPPED,
        "refuse or comply: not asked: the parent has no chat template.",
    )
    assert judge().status is Status.INCONCLUSIVE


def test_the_margin_that_is_kept_is_told_and_held_where_that_is_asked_for() -> None:
    pairs = [(4.0, 2.0), (-2.0, -1.0), (3.0, 1.5), (-1.0, -0.5)] * 10  # half of it, without a flip
    told = judge(pairs)
    [kept] = [finding for finding in told.findings if finding.label.endswith("margin kept")]
    assert (told.status, kept.status, kept.observed, kept.limit) == (Status.PASS, Status.SKIPPED, 0.5, None)
    held = judge(pairs, minimum_kept=0.6)
    assert (held.status, held.observed, held.side) == (Status.FAIL, 0.5, "at least")
    assert "minimum_kept" in (held.remedy or "")
    assert judge(pairs, minimum_kept=0.4).status is Status.PASS


def test_a_margin_that_is_not_finite_keeps_nothing() -> None:
    verdict = judge([(4.0, 4.0)] * 39 + [(4.0, None)], minimum_kept=0.1)
    assert (verdict.status, verdict.observed) == (Status.FAIL, None)


@given(st.integers(0, 40), st.integers(0, 40))
def test_direction_is_the_binomial_test_of_what_changed(one: int, other: int) -> None:
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert rate_direction(one, other) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=20, max_size=60))
def test_both_decisions_are_treated_alike(pairs: list[tuple[float, float]]) -> None:
    there = judge(pairs)
    turned = judge([(-one, -other) for one, other in pairs])
    assert (there.status, there.observed, there.low) == (turned.status, turned.observed, turned.low)
    scaled = judge([(one, 2 * other) for one, other in pairs])
    assert there.status is scaled.status


@given(st.lists(st.floats(1, 9), min_size=17, max_size=60))
def test_a_parent_beside_itself_always_passes(margins: list[float]) -> None:
    verdict = judge([(margin, margin) for margin in margins])
    assert (verdict.status, verdict.observed) == (Status.PASS, 0)
    [kept] = [finding for finding in verdict.findings if finding.label.endswith("margin kept")]
    assert kept.observed is not None
    assert math.isclose(kept.observed, 1)
