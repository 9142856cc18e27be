from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_location

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Expectation, ModelPolicy, Policy
from sw_audit.record.location import Outcome, Rotation
from sw_audit.record.verdict import Status, Verdict

CHECK = "super-weights-as-expected"


def judge_outcome(outcome: Outcome, expect: Expectation) -> Verdict:
    policy = Policy(expect=expect)
    return judge_result(make_evidence(outcome=outcome), policy, [CHECK])[0]


@pytest.mark.parametrize(
    ("outcome", "expect", "status"),
    [
        (Outcome.LOCATED, "some", Status.PASS),
        (Outcome.LOCATED, "any", Status.SKIPPED),
        (Outcome.LOCATED, "none", Status.FAIL),
        (Outcome.DISTRIBUTED, "some", Status.FAIL),
        (Outcome.DISTRIBUTED, "any", Status.SKIPPED),
        (Outcome.DISTRIBUTED, "none", Status.FAIL),
        (Outcome.NONE, "some", Status.FAIL),
        (Outcome.NONE, "any", Status.SKIPPED),
        (Outcome.NONE, "none", Status.PASS),
    ],
)
def test_what_is_expected_decides_what_an_outcome_means(
    outcome: Outcome, expect: Expectation, status: Status
) -> None:
    verdict = judge_outcome(outcome, expect)
    assert verdict.status is status
    assert (verdict.remedy is not None) == (status is Status.FAIL)
    assert make_location(outcome).because in verdict.because


def test_the_count_is_held_against_the_expectation() -> None:
    some, none = judge_outcome(Outcome.NONE, "some"), judge_outcome(Outcome.LOCATED, "none")
    assert (some.observed, some.side, some.limit) == (0, "at least", 1)
    assert (none.observed, none.side, none.limit) == (1, "at most", 0)
    assert (some.low, some.high, some.protocol) == (None, None, None)


def test_a_model_without_super_weights_is_told_how_to_say_so() -> None:
    remedy = judge_outcome(Outcome.NONE, "some").remedy
    assert remedy is not None
    assert '`expect = "none"`' in remedy


def test_a_rotated_checkpoint_is_named_as_such() -> None:
    rotation = Rotation(declared=True, because="`transform_config` in its quantization_config says so (hadamard)")
    location = make_location(Outcome.NONE).model_copy(update={"rotation": rotation})
    verdict = judge_result(make_evidence(location=location), Policy(expect="some"), [CHECK])[0]
    assert verdict.status is Status.FAIL
    assert "the checkpoint is rotated" in verdict.because
    assert "published coordinates are absent by design" in verdict.because
    assert verdict.remedy is not None
    assert 'expect = "any"' in verdict.remedy


def test_a_model_s_own_expectation_wins_over_the_policy_s() -> None:
    policy = Policy(models=(ModelPolicy(source="x", id="specimen", expect="none"),), expect="some")
    evidence = make_evidence(outcome=Outcome.NONE)
    assert judge_result(evidence, policy, [CHECK])[0].status is Status.PASS
    assert judge_result(evidence, Policy(), [CHECK])[0].status is Status.SKIPPED
