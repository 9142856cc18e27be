from __future__ import annotations

import pytest
from support.descent import CHILD, make_descent_evidence, make_descent_policy
from support.evidence import make_evidence, make_policy

from sw_audit.checks.judging import judge_result, list_checks
from sw_audit.checks.registry import find_checks
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.verdict import Status

BY_SCOPE = {
    scope: [check.id for check in find_checks().values() if check.scope == scope]
    for scope in ("model", "descendant", "baseline")
}
PARENTED = ModelPolicy(source="models/child", id=CHILD, parent="models/parent")
ALONE = ModelPolicy(source="models/alone", id="alone")


def ids(policy: Policy, model: ModelPolicy | None = None) -> list[str]:
    return [check.id for check in list_checks(policy, model)]


def test_each_model_is_asked_what_it_can_answer() -> None:
    policy = Policy(models=(ALONE, PARENTED))
    assert ids(policy, ALONE) == BY_SCOPE["model"]
    assert ids(policy, PARENTED) == BY_SCOPE["descendant"]
    assert ids(policy) == BY_SCOPE["model"] + BY_SCOPE["descendant"]
    assert ids(Policy()) == BY_SCOPE["model"]


def test_a_baseline_adds_its_checks_to_every_model() -> None:
    policy = Policy(models=(ALONE, PARENTED), compare="v1")
    for model, scope in ((ALONE, "model"), (PARENTED, "descendant")):
        assert ids(policy, model) == BY_SCOPE[scope] + BY_SCOPE["baseline"]


def test_a_check_that_is_not_run_on_a_model_has_no_verdict() -> None:
    alone = judge_result(make_evidence("alone"), make_policy("alone"))
    beside = judge_result(make_descent_evidence(), make_descent_policy())
    assert [one.check for one in alone] == BY_SCOPE["model"]
    assert [one.check for one in beside] == BY_SCOPE["descendant"]


def test_what_is_beside_a_model_decides_also_where_no_policy_names_it() -> None:
    beside = judge_result(make_descent_evidence(), Policy())
    assert [one.check for one in beside] == BY_SCOPE["descendant"]


@pytest.mark.parametrize("check", BY_SCOPE["descendant"])
def test_asked_for_by_name_without_a_parent_a_check_is_skipped_with_that_reason(check: str) -> None:
    (verdict,) = judge_result(make_evidence(), make_policy(), [check])
    assert verdict.status is Status.SKIPPED
    assert "no parent" in verdict.because


@pytest.mark.parametrize("check", BY_SCOPE["descendant"])
def test_a_descendant_that_was_not_measured_beside_its_parent_is_inconclusive(check: str) -> None:
    evidence = make_descent_evidence().model_copy(update={"descent": None})
    (verdict,) = judge_result(evidence, make_descent_policy(), [check])
    assert verdict.status is Status.INCONCLUSIVE
    assert "models/parent" in verdict.because
    assert verdict.remedy


@pytest.mark.parametrize("check", BY_SCOPE["baseline"])
def test_without_a_baseline_a_check_is_skipped_and_with_one_that_was_not_held_it_is_inconclusive(
    check: str,
) -> None:
    (skipped,) = judge_result(make_evidence(), make_policy(), [check])
    assert skipped.status is Status.SKIPPED
    assert "no baseline" in skipped.because
    (unheld,) = judge_result(make_evidence(), make_policy().model_copy(update={"compare": "v1"}), [check])
    assert unheld.status is Status.INCONCLUSIVE
    assert "'v1'" in unheld.because


def test_a_descendant_is_not_judged_as_a_model_by_itself() -> None:
    verdicts = judge_result(make_descent_evidence(), make_descent_policy(), BY_SCOPE["model"])
    assert {one.status for one in verdicts} == {Status.SKIPPED}
    assert all("beside its parent" in one.because for one in verdicts)


def test_every_verdict_on_a_descendant_has_words_and_a_remedy_where_it_needs_one() -> None:
    empty = make_descent_evidence(super_weights=(), super_activations=(), layers=(), continuations=())
    for evidence in (make_descent_evidence(), empty):
        for verdict in judge_result(evidence, make_descent_policy(lm_eval=("arc_easy",))):
            assert verdict.because.endswith((".", "?"))
            assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))
