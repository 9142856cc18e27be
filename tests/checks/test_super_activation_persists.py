from __future__ import annotations

import pytest
from support.evidence import SUPER_ACTIVATION, make_evidence, make_location, make_persistence, make_search

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.super_activation_persists import SuperActivationPersistsLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.location import Location, PromptSearch, PromptTrace
from sw_audit.record.verdict import Status, Verdict


def judge_traces(
    traces: tuple[PromptTrace, ...],
    *,
    tolerance: float = 0.3,
    location: Location | None = None,
    search: PromptSearch | None = None,
) -> Verdict:
    limits = CheckLimits({"super-activation-persists": SuperActivationPersistsLimits(tolerance=tolerance)})
    evidence = make_evidence(persistence=traces, location=location).model_copy(update={"prompt_search": search})
    return judge_result(evidence, Policy(checks=limits), ["super-activation-persists"])[0]


def test_a_channel_that_keeps_token_and_magnitude_persists() -> None:
    verdict = judge_traces(make_persistence())
    assert verdict.status is Status.PASS
    # Median of -411, -412, -412.5, -413, -413, -413.4 is -412.75; the farthest is -411.
    assert verdict.observed == pytest.approx(1.75 / 412.75)
    assert verdict.limit == 0.3
    assert [one.label for one in verdict.findings] == ["channel 37"]


def test_the_deviation_is_over_all_prompts_together() -> None:
    quiet = make_persistence(values=(0.0, *[-100.0] * 6, 0.0), prompts=("a", "b"))
    loud = make_persistence(values=(0.0, *[-140.0] * 6, 0.0), prompts=("c",))
    verdict = judge_traces((*quiet, *loud))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(0.4)
    assert judge_traces((*quiet, *loud), tolerance=0.41).status is Status.PASS


def test_what_happens_outside_of_its_layers_does_not_matter() -> None:
    values = (9e9, *[-100.0] * 6, None)
    assert judge_traces(make_persistence(values=values)).status is Status.PASS


def test_a_sign_flip_is_a_deviation() -> None:
    values = (0.0, -100.0, -100.0, -100.0, -100.0, -100.0, 100.0, 0.0)
    verdict = judge_traces(make_persistence(values=values))
    assert verdict.status is Status.FAIL
    assert verdict.observed == 2


def test_a_channel_that_moves_to_another_token_fails() -> None:
    verdict = judge_traces(make_persistence(peaks=(3, 0, 0, 0, 2, 0, 0, 4)))
    assert verdict.status is Status.FAIL
    assert "moves from token 0 to token 2 at layer 4" in verdict.because


def test_another_token_on_another_prompt_is_no_move() -> None:
    first = make_persistence(prompts=("a",))
    second = make_persistence(prompts=("b",), peaks=(3, 1, 1, 1, 1, 1, 1, 4))
    assert judge_traces((*first, *second)).status is Status.PASS


def test_up_to_three_other_massive_channels_may_be_larger() -> None:
    assert judge_traces(make_persistence(ranks=(9, 0, 3, 3, 3, 3, 0, 9))).status is Status.PASS
    verdict = judge_traces(make_persistence(ranks=(9, 0, 0, 4, 0, 0, 0, 9)))
    assert verdict.status is Status.FAIL
    assert "4 other channels are larger at layer 3" in verdict.because


def test_a_value_that_is_not_finite_fails() -> None:
    verdict = judge_traces(make_persistence(values=(0.0, -1.0, None, -1.0, -1.0, -1.0, -1.0, 0.0)))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None


def test_a_channel_of_zeros_is_no_super_activation() -> None:
    assert judge_traces(make_persistence(values=(0.0,) * 8)).status is Status.FAIL


@pytest.mark.parametrize(
    "traces",
    [
        (),
        make_persistence(prompts=("alone",)),
        make_persistence(values=(0.0, -1.0, -1.0), peaks=(0, 0, 0), ranks=(0, 0, 0)),
    ],
    ids=["none", "one prompt", "too short"],
)
def test_what_was_not_traced_is_inconclusive(traces: tuple[PromptTrace, ...]) -> None:
    verdict = judge_traces(traces)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None
    assert "at least two `prompts`" in verdict.remedy


def test_the_worst_of_several_channels_decides() -> None:
    other = SUPER_ACTIVATION.model_copy(update={"channel": 5})
    location = make_location().model_copy(update={"super_activations": (SUPER_ACTIVATION, other)})
    wobbly = tuple(
        trace.model_copy(update={"channel": 5})
        for trace in make_persistence(values=(0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.0))
    )
    verdict = judge_traces((*make_persistence(), *wobbly), location=location)
    assert verdict.status is Status.FAIL
    assert verdict.observed == 1
    assert [one.status for one in verdict.findings] == [Status.PASS, Status.FAIL]


def test_super_weights_without_a_super_activation_are_inconclusive() -> None:
    location = make_location().model_copy(update={"super_activations": ()})
    assert judge_traces(make_persistence(), location=location).status is Status.INCONCLUSIVE


def test_the_shortest_prompt_that_breaks_the_law_fails_a_channel_that_keeps_to_it_on_all_others() -> None:
    verdict = judge_traces(make_persistence(), search=make_search((0.0, *[-206.25] * 6, 0.0)))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx((412.5 - 206.25) / 412.5)
    assert verdict.because.startswith("Channel 37 is lost on the prompt 'zat' (2 tokens)")
    assert verdict.remedy is not None
    assert "[checks.super-activation-persists] examples = 0" in verdict.remedy
    assert [(one.label, one.status) for one in verdict.findings] == [
        ("channel 37", Status.PASS),
        ("search", Status.FAIL),
    ]


def test_a_channel_that_moves_on_it_fails_however_near_its_value() -> None:
    search = make_search((0.0, *[-412.5] * 6, 0.0), peaks=(3, 0, 0, 1, 1, 1, 1, 4))
    verdict = judge_traces(make_persistence(), search=search)
    assert verdict.status is Status.FAIL
    assert verdict.observed == 0


def test_a_value_that_is_not_finite_on_it_fails_without_a_figure() -> None:
    verdict = judge_traces(make_persistence(), search=make_search((0.0, -412.5, None, *[-412.5] * 4, 0.0)))
    assert (verdict.status, verdict.observed) == (Status.FAIL, None)


def test_a_long_prompt_is_cut_where_it_is_quoted() -> None:
    search = make_search((0.0,) * 8)
    assert search.found is not None
    found = search.found.model_copy(update={"prompt": "za " * 64})
    verdict = judge_traces(make_persistence(), search=search.model_copy(update={"found": found}))
    assert f"'{'za ' * 26}za…'" in verdict.because


def test_a_search_that_found_nothing_is_said_and_passes() -> None:
    verdict = judge_traces(make_persistence(), search=PromptSearch(examples=50, tolerance=0.3))
    assert verdict.status is Status.PASS
    assert verdict.because.endswith("; none of up to 50 random prompts breaks the law.")
    assert verdict.observed == pytest.approx(1.75 / 412.75)


def test_a_search_that_could_not_be_made_is_said_and_decides_nothing() -> None:
    search = PromptSearch(
        examples=0, tolerance=0.3, omitted="hypothesis is not installed (pip install hypothesis)"
    )
    verdict = judge_traces(make_persistence(), search=search)
    assert verdict.status is Status.PASS
    assert f"no other prompt was tried: {search.omitted}" in verdict.because
    assert verdict.findings[-1].status is Status.SKIPPED


def test_a_prompt_on_which_the_model_is_not_finite_breaks_the_law() -> None:
    search = PromptSearch(examples=50, tolerance=0.3, stopped="the output of decoder layer 3 is not finite")
    verdict = judge_traces(make_persistence(), search=search)
    assert verdict.status is Status.FAIL
    assert "the output of decoder layer 3 is not finite" in verdict.because


def test_a_record_is_judged_again_under_another_tolerance_than_the_search_had() -> None:
    # 10 % off: found by a search that allowed 5 %, and no break where 30 % are allowed.
    found = make_search((0.0, *[-371.25] * 6, 0.0), tolerance=0.05)
    assert judge_traces(make_persistence(), search=found, tolerance=0.05).status is Status.FAIL
    wider = judge_traces(make_persistence(), search=found)
    assert (wider.status, wider.findings[-1].status) == (Status.PASS, Status.SKIPPED)
    nothing = PromptSearch(examples=50, tolerance=0.3)
    stricter = judge_traces(make_persistence(), search=nothing, tolerance=0.05)
    assert (stricter.status, stricter.findings[-1].status) == (Status.PASS, Status.SKIPPED)
    assert "by more than 0.3" in stricter.because


def test_fixed_prompts_that_break_the_law_decide_before_the_search() -> None:
    moved = make_persistence(peaks=(3, 0, 0, 0, 2, 0, 0, 4))
    verdict = judge_traces(moved, search=make_search((0.0,) * 8))
    assert verdict.status is Status.FAIL
    assert "moves from token 0 to token 2 at layer 4" in verdict.because
    assert "channel 37 is lost on the prompt 'zat'" in verdict.because


def test_too_few_fixed_prompts_are_not_made_up_for_by_a_search() -> None:
    verdict = judge_traces((), search=PromptSearch(examples=50, tolerance=0.3))
    assert verdict.status is Status.INCONCLUSIVE
