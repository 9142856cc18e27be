from __future__ import annotations

from typing import Any

import pytest
from support.descent import make_descent_evidence
from support.verdicts import judge_one

from sw_audit.checks.experts_quantized_alike import ExpertsQuantizedAlikeLimits
from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.experts import ComparedExperts, ExpertScale, SiblingExperts
from sw_audit.record.files import ComparedFiles
from sw_audit.record.verdict import Status, Verdict

CHECK = "experts-quantized-alike"
NOT_READ = "their codes cannot be read from files here"
NAME = "model.layers.1.mlp.experts.*.down_proj.weight"


def judge(experts: ComparedExperts | None, **limits: Any) -> Verdict:
    result = make_descent_evidence()
    result = result.model_copy(update={"files": ComparedFiles(experts=experts)})
    checks = CheckLimits({CHECK: ExpertsQuantizedAlikeLimits(**limits)})
    named = (ModelPolicy(source="models/it", id=result.id, parent="models/parent"),)
    return judge_one(CHECK, result, Policy(model=named, checks=checks))


def compare(*worst: tuple[int, float | None], usual: float | None = 0.1, **changes: Any) -> ComparedExperts:
    siblings = SiblingExperts(name=NAME, count=8, usual=usual, worst=worst, **changes)
    return ComparedExperts(experts=24, compared=72, siblings=(siblings,))


def test_it_passes_where_no_error_is_far_from_its_siblings() -> None:
    verdict = judge(compare((5, 0.125), (2, 0.11)))
    assert (verdict.status, verdict.limit, verdict.level) == (Status.PASS, 4.0, "gate")
    assert verdict.observed == pytest.approx(1.25)
    assert verdict.because == (
        "72 matrices of 24 experts were held against the parent's; the largest error is "
        "model.layers.1.mlp.experts.5.down_proj.weight's, 1.25 times the usual."
    )


def test_an_expert_whose_error_is_far_beyond_its_siblings_fails_and_is_named() -> None:
    verdict = judge(compare((5, 0.41), (2, 0.11)))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(4.1)
    assert verdict.because.startswith(
        "model.layers.1.mlp.experts.5.down_proj.weight: its error is 0.41 of the parent's weights, its siblings'"
    )
    assert verdict.remedy is not None
    assert "calibrate_all_experts" in verdict.remedy
    assert judge(compare((5, 0.41)), maximum_times=4.2).status is Status.PASS
    assert judge(compare((5, 0.4))).status is Status.PASS  # 4 times is allowed


def test_a_small_error_is_no_failure_however_small_those_of_the_siblings_are() -> None:
    # As of a fine-tune of a few experts: 0.05 is less than 4 times the floor of 0.03.
    assert judge(compare((5, 0.05), usual=0.0)).status is Status.PASS
    assert judge(compare((5, 0.05), usual=0.0), floor=0.0).status is Status.FAIL


def test_an_error_that_is_not_finite_fails() -> None:
    verdict = judge(compare((5, None), (2, 0.1)))
    assert (verdict.status, verdict.findings[0].observed) == (Status.FAIL, None)
    assert "its weights are not finite" in verdict.because
    assert judge(compare((5, None), usual=None)).status is Status.FAIL


def test_an_expert_that_is_plain_among_codes_fails() -> None:
    verdict = judge(compare((2, 0.1), unquantized=(3, 6)))
    words = "it is stored as plain numbers, and most of its 7 siblings as codes (and 1 more)."
    assert (verdict.status, verdict.because) == (
        Status.FAIL,
        f"model.layers.1.mlp.experts.3.down_proj.weight: {words}",
    )
    assert judge(compare(usual=None, unquantized=(3,))).status is Status.FAIL


def test_one_that_the_configuration_leaves_out_is_told_and_fails_nothing() -> None:
    verdict = judge(compare((2, 0.1), left_out=(3, 6)))
    assert verdict.status is Status.PASS
    assert verdict.findings[-1].because == "The configuration leaves out experts 3, 6 of 8."


@pytest.mark.parametrize(("value", "told"), [(0.0, "0"), (None, "not finite")])
def test_a_scale_that_no_token_set_fails(value: float | None, told: str) -> None:
    scale = ExpertScale(name="e.3.input_scale", value=value, usual=0.02)
    verdict = judge(compare((2, 0.1)).model_copy(update={"scales": (scale,)}))
    words = f"e.3.input_scale: it is {told}, as if no token had set it; its siblings' is 0.02."
    assert (verdict.status, verdict.because) == (Status.FAIL, words)


def test_it_is_skipped_with_its_reason() -> None:
    adapter = "it is an adapter, which leaves every tensor of its base as it is"
    unread = ComparedExperts(experts=24, siblings=(SiblingExperts(name=NAME, count=8),))
    for experts, because in (
        (ComparedExperts(), "Its files hold no experts."),
        (ComparedExperts(because=adapter), f"I{adapter[1:]}."),
        (
            unread,
            f"None of its 24 experts could be held against the parent's: {NOT_READ}.",
        ),
    ):
        verdict = judge(experts)
        assert (verdict.status, verdict.because) == (Status.SKIPPED, because)


def test_nobody_compared_them() -> None:
    assert judge(None).status is Status.INCONCLUSIVE
