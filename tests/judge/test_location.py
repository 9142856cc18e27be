from __future__ import annotations

import math

import pytest
from support.evidence import (
    SUPER_ACTIVATION,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_persistence,
    make_policy,
)

from sw_audit.facts.limits import CheckLimits, SuperActivationPersistsLimits, SuperWeightLocatedLimits
from sw_audit.facts.location import Location, Outcome, PromptTrace
from sw_audit.facts.policy import Expectation, ModelPolicy, Policy
from sw_audit.facts.verdict import Status, Verdict
from sw_audit.judge.bench import judge_evidence


def judge_outcome(outcome: Outcome, expect: Expectation) -> Verdict:
    policy = make_policy().model_copy(update={"expect": expect})
    return judge_evidence(make_evidence(outcome=outcome), policy, ["super-weight-located"])[0]


def judge_weights(*layers: int, limits: SuperWeightLocatedLimits | None = None) -> Verdict:
    weights = tuple(
        SUPER_WEIGHT.model_copy(update={"layer": layer, "column": column}) for column, layer in enumerate(layers)
    )
    location = make_location().model_copy(update={"super_weights": weights})
    policy = Policy(checks=CheckLimits(super_weight_located=limits or SuperWeightLocatedLimits()))
    return judge_evidence(make_evidence(location=location), policy, ["super-weight-located"])[0]


def judge_traces(
    traces: tuple[PromptTrace, ...], *, tolerance: float = 0.3, location: Location | None = None
) -> Verdict:
    limits = CheckLimits(super_activation_persists=SuperActivationPersistsLimits(tolerance=tolerance))
    evidence = make_evidence(persistence=traces, location=location)
    return judge_evidence(evidence, Policy(checks=limits), ["super-activation-persists"])[0]


@pytest.mark.parametrize(
    ("outcome", "expect", "status"),
    [
        (Outcome.LOCATED, "some", Status.PASS),
        (Outcome.LOCATED, "any", Status.PASS),
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
    if outcome is not Outcome.LOCATED:
        assert make_location(outcome).because in verdict.because


def test_a_model_without_super_weights_is_told_how_to_say_so() -> None:
    remedy = judge_outcome(Outcome.NONE, "some").remedy
    assert remedy is not None
    assert '`expect = "none"`' in remedy


def test_a_model_s_own_expectation_wins_over_the_policy_s() -> None:
    policy = Policy(models=(ModelPolicy(source="x", id="specimen", expect="none"),))
    evidence = make_evidence(outcome=Outcome.NONE)
    assert judge_evidence(evidence, policy, ["super-weight-located"])[0].status is Status.PASS
    assert judge_evidence(evidence, Policy(), ["super-weight-located"])[0].status is Status.FAIL


def test_one_early_super_weight_passes_and_is_counted() -> None:
    verdict = judge_weights(1)
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.limit) == (1, 6)
    assert (verdict.low, verdict.high, verdict.protocol) == (None, None, None)


def test_more_super_weights_than_allowed_fail() -> None:
    assert judge_weights(*[1] * 6).status is Status.PASS
    verdict = judge_weights(*[1] * 7)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit) == (7, 6)
    assert verdict.remedy is not None
    assert "maximum_count" in verdict.remedy


def test_early_is_the_ceiling_of_the_fraction() -> None:
    # ceil(8 / 3) = 3: layers 0, 1 and 2 are early.
    assert judge_weights(0, 2).status is Status.PASS
    verdict = judge_weights(0, 3)
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit, verdict.quantity) == (3, 2, "deepest layer of a super weight")
    assert verdict.remedy is not None
    assert "early_fraction" in verdict.remedy


def test_a_fraction_that_falls_on_a_layer_is_not_pushed_beyond_it() -> None:
    # A hair more than 5/8 of 8 layers is five layers and a rounding error, not six.
    limits = SuperWeightLocatedLimits(early_fraction=math.nextafter(0.625, 1))
    assert limits.early_fraction * 8 > 5
    assert judge_weights(4, limits=limits).status is Status.PASS
    assert judge_weights(5, limits=limits).status is Status.FAIL


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
