from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.baselines import POLICY, judge
from support.descent import CHILD, make_descent_evidence, make_descent_policy
from support.evidence import (
    make_arms,
    make_evidence,
    make_failing_evidence,
    make_none_evidence,
    make_policy,
    make_record,
)
from support.verdicts import judge_one

from sw_audit.checks.judging import judge_failure, judge_result, list_checks
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.prune_collapses import PruneCollapsesLimits
from sw_audit.checks.registry import Scope, find_checks
from sw_audit.errors import PolicyError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.checkpoint import Flaw, WeightsReport
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure
from sw_audit.record.store import decode_record, encode_record
from sw_audit.record.verdict import Status, Verdict

WEIGHT, ACTIVATION, QUALITY = "super-weight-unmoved", "super-activation-unmoved", "quality-not-worse"
BY_SCOPE = {
    scope: [check.id for check in find_checks().values() if check.is_about(scope)]
    for scope in get_args(Scope)
    if scope != "any"
}
OF_DESCENDANTS = [check.id for check in find_checks().values() if check.scope == "descendant"]
OF_MODELS = [check.id for check in find_checks().values() if check.scope == "model"]
PARENTED = ModelPolicy(source="models/child", id=CHILD, parent="models/parent")
TEMPLATE = make_record(windows=8, items=8)
ARMS = tuple(arm.name for arm in make_arms(make_policy()))
ALONE = ModelPolicy(source="models/alone", id="alone")


def ids(policy: Policy, model: ModelPolicy | None = None) -> list[str]:
    return [check.id for check in list_checks(policy, model)]


def test_a_healthy_model_passes_every_check_in_their_order() -> None:
    verdicts = judge_result(make_evidence(), make_policy())
    assert [verdict.check for verdict in verdicts] == BY_SCOPE["model"]
    assert {verdict.status for verdict in verdicts} == {Status.PASS}
    assert {verdict.model for verdict in verdicts} == {"specimen"}


def test_where_the_run_ended_before_a_model_was_measured_everything_is_inconclusive() -> None:
    failure = ModelFailure(model="it", message="", stopped="the run was stopped by SIGTERM")
    verdicts = judge_failure(failure, make_policy(), BY_SCOPE["model"])
    assert [verdict.check for verdict in verdicts] == BY_SCOPE["model"]
    assert {verdict.status for verdict in verdicts} == {Status.INCONCLUSIVE}
    assert verdicts[0].because == "It was not measured, for the run was stopped by SIGTERM."
    assert verdicts[0].quantity == find_checks()[verdicts[0].check].quantity


def test_a_law_is_a_gate_where_the_policy_says_so_of_all_or_of_one() -> None:
    known, lenient = find_checks(), Policy(models=make_policy().models)
    own = {verdict.check: verdict.level for verdict in judge_result(make_evidence(), lenient)}
    assert own == {name: known[name].level for name in own}
    assert set(own.values()) == {"gate", "law"}
    strict = judge_result(make_evidence(), make_policy())
    assert {verdict.level for verdict in strict} == {"gate"}
    promoted = lenient.model_copy(update={"checks": CheckLimits({"prune-collapses": {"level": "gate"}})})
    levels = {verdict.check: verdict.level for verdict in judge_result(make_evidence(), promoted)}
    assert levels == {**own, "prune-collapses": "gate"}


def test_every_law_says_what_others_measured() -> None:
    assert all(bool(check.known) == (check.level == "law") for check in find_checks().values())


def test_without_a_super_weight_the_checks_that_need_one_are_skipped_with_the_reason() -> None:
    evidence = make_none_evidence()
    statuses = {one.check: one for one in judge_result(evidence, make_policy("control"))}
    needing = {check.id for check in find_checks().values() if check.needs_super_weight}
    skipped = {name for name, one in statuses.items() if one.status is Status.SKIPPED}
    assert skipped == needing | {
        "matches-published-index",
        "super-weight-located",
        "super-experts-exceed-controls",
    }
    for name in needing:
        assert evidence.location.because in statuses[name].because
        assert statuses[name].remedy is None


@given(
    changed=st.dictionaries(
        st.sampled_from(ARMS), st.one_of(st.none(), st.floats(0.01, 1e6, exclude_min=True)), max_size=6
    ),
    omitted=st.lists(st.sampled_from(ARMS), max_size=3),
    outcome=st.sampled_from(Outcome),
    windows=st.sampled_from([3, 8, 20]),
    limit=st.floats(0.1, 1000),
)
@settings(max_examples=8, deadline=None)
def test_stored_verdicts_are_had_again_from_the_stored_evidence_and_policy(
    changed: Mapping[str, float | None], omitted: list[str], outcome: Outcome, windows: int, limit: float
) -> None:
    checks = CheckLimits({"prune-collapses": PruneCollapsesLimits(minimum_ratio=limit)})
    policy = make_policy().model_copy(update={"checks": checks})
    evidence = make_evidence(ratios=changed, omit=tuple(omitted), outcome=outcome, windows=windows, items=windows)
    template = TEMPLATE
    verdicts = judge_result(evidence, policy)
    judged = evidence.model_copy(update={"verdicts": verdicts})
    record = template.model_copy(update={"models": (judged,), "policy": policy})
    again = decode_record(encode_record(record))
    assert again == record
    assert judge_result(again.find_model("specimen"), again.policy) == verdicts
    for verdict in verdicts:
        assert verdict.because
        assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))


def test_every_verdict_on_every_model_of_a_record_is_had_again() -> None:
    record = decode_record(encode_record(make_record()))
    again = [one for result in record.results for one in judge_result(result, record.policy)]
    assert tuple(again) == record.verdicts


def test_what_fails_says_what_to_do_in_one_sentence_or_two() -> None:
    for verdict in judge_result(make_failing_evidence(), make_policy("broken")):
        if verdict.status is Status.FAIL:
            assert verdict.remedy is not None
            assert verdict.remedy.endswith((".", "ones."))
            assert verdict.coordinates


def test_a_disabled_check_is_not_judged_unless_it_is_asked_for() -> None:
    policy = Policy(checks=CheckLimits({"prune-collapses": PruneCollapsesLimits(enabled=False)}))
    assert "prune-collapses" not in [one.check for one in judge_result(make_evidence(), policy)]
    assert "prune-collapses" not in [check.id for check in list_checks(policy)]
    (verdict,) = judge_result(make_evidence(), policy, ["prune-collapses"])
    assert verdict.status is Status.PASS


def test_an_unknown_check_is_one_line_that_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="write 'prune-collapses'") as caught:
        judge_result(make_evidence(), make_policy(), ["prune-colapses"])
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyError, match="choose among super-weight-located"):
        judge_result(make_evidence(), make_policy(), ["zzz"])


def test_judging_needs_no_torch() -> None:
    program = "import sys, sw_audit.checks, sw_audit.record, sw_audit.policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_checks_on_a_baseline_run_only_where_something_is_compared() -> None:
    wanted = {WEIGHT, ACTIVATION, QUALITY}
    assert wanted <= {check.id for check in list_checks(POLICY)}
    assert wanted.isdisjoint({check.id for check in list_checks(Policy())})
    assert judge(WEIGHT, make_evidence(), Policy()).status is Status.SKIPPED
    assert judge(WEIGHT, make_evidence()).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("check", ["effect-exceeds-placebos", "damage-follows-dose"])
def test_without_a_super_weight_there_is_no_cause_to_confirm(check: str) -> None:
    assert judge_one(check, make_none_evidence()).status is Status.SKIPPED


def test_each_model_is_asked_what_it_can_answer() -> None:
    policy = Policy(models=(ALONE, PARENTED))
    assert ids(policy, ALONE) == BY_SCOPE["model"]
    assert ids(policy, PARENTED) == BY_SCOPE["descendant"]
    plain = [name for name, check in find_checks().items() if check.scope not in ("baseline", "engine")]
    assert ids(policy) == plain
    in_engine = ALONE.model_copy(update={"engine": "llama.cpp"})
    assert set(ids(policy, in_engine)) - {*BY_SCOPE["model"]} == {*BY_SCOPE["engine"]}
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


@pytest.mark.parametrize("check", OF_DESCENDANTS)
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
    verdicts = judge_result(make_descent_evidence(), make_descent_policy(), OF_MODELS)
    assert {one.status for one in verdicts} == {Status.SKIPPED}
    assert all("beside its parent" in one.because for one in verdicts)


def test_every_verdict_on_a_descendant_has_words_and_a_remedy_where_it_needs_one() -> None:
    empty = make_descent_evidence(super_weights=(), super_activations=(), layers=(), continuations=())
    for evidence in (make_descent_evidence(), empty):
        for verdict in judge_result(evidence, make_descent_policy(lm_eval=("arc_easy",))):
            assert verdict.because.endswith((".", "?"))
            assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))


BROKEN = WeightsReport(
    files=2, tensors=30, flaws=(Flaw(kind="non-finite", where="a.weight", found="it holds 2 NaN"),), serious=1
)
INTACT = WeightsReport(files=2, tensors=30, scanned=30)


def judge_unopened(weights: WeightsReport | None, *checks: str) -> tuple[Verdict, ...]:
    return judge_failure(ModelFailure(model="it", message="gone", weights=weights), make_policy(), checks)


def test_where_the_weights_are_broken_that_is_one_verdict_and_the_others_are_skipped() -> None:
    intact, other = judge_unopened(BROKEN, "weights-intact", "kl-divergence")
    assert (intact.status, intact.observed, intact.quantity) == (Status.FAIL, 1, "serious flaws")
    assert (other.status, other.check, other.model) == (Status.SKIPPED, "kl-divergence", "it")


def test_what_was_not_looked_at_for_broken_weights_is_skipped_and_not_open() -> None:
    static = [check.id for check in find_checks().values() if check.static and check.id != "weights-intact"]
    intact, *others = judge_unopened(BROKEN, "weights-intact", *static)
    assert intact.status is Status.FAIL
    assert {other.status for other in others} == {Status.SKIPPED}
    assert Status.INCONCLUSIVE in {other.status for other in judge_unopened(BROKEN, *static)}


def test_without_the_check_that_fails_the_others_are_no_skip_that_would_pass() -> None:
    [verdict] = judge_unopened(BROKEN, "kl-divergence")
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None


def test_where_intact_files_do_not_open_nothing_that_was_not_measured_passes() -> None:
    intact, other = judge_unopened(INTACT, "weights-intact", "kl-divergence")
    assert (intact.status, other.status) == (Status.PASS, Status.INCONCLUSIVE)
    assert "gone" in other.because


def test_a_model_that_failed_for_another_reason_has_no_verdicts() -> None:
    assert judge_unopened(None, "weights-intact") == ()
