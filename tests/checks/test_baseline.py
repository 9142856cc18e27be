"""What was once known of a model: coordinates, sign, drift, magnitude, and perplexity under one protocol only."""

from __future__ import annotations

import pytest
from support.evidence import (
    CHANNEL,
    SUPER_ACTIVATION,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_loss,
    make_protocol,
)

from sw_audit.checks.judging import judge_result, list_checks
from sw_audit.policy.policy import Policy
from sw_audit.record.baseline import Baseline, HeldActivation, HeldWeight
from sw_audit.record.identity import Tool
from sw_audit.record.location import Location, Outcome
from sw_audit.record.protocol import Protocol, compare_protocols
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

WEIGHT, ACTIVATION, QUALITY = "super-weight-unmoved", "super-activation-unmoved", "quality-not-worse"
BEFORE = SUPER_WEIGHT.value  # -1.9268
POLICY = Policy(compare="main")


def hold(
    value: float | None = BEFORE,
    activation: float | None = SUPER_ACTIVATION.value,
    *,
    perplexity: float | None = 6.25,
    protocol: Protocol | None = None,
    then: Location | None = None,
    now: Location | None = None,
    **identity: object,
) -> ModelResult:
    """Return evidence on a model of perplexity 6.25 held against a baseline of the given perplexity."""
    evidence = make_evidence(location=now)
    protocol = protocol or evidence.protocol
    unedited = evidence.unedited
    assert unedited is not None
    then = then or make_location()
    baseline = Baseline(
        name="main",
        created="2026-01-01T00:00:00+00:00",
        tool=Tool(version="0"),
        model=evidence.model.model_copy(update=identity),
        protocol=protocol,
        location=then,
        measurement=unedited.model_copy(
            update={"protocol": protocol.signature, "loss": make_loss(perplexity, seed=2)}
        ),
        weights=tuple(
            HeldWeight(address=one.address, layer=one.layer, before=one.value, value=value)
            for one in then.super_weights
        ),
        activations=tuple(
            HeldActivation(channel=one.channel, token=one.token, before=one.value, value=activation)
            for one in then.super_activations
        ),
    )
    return evidence.model_copy(update={"baseline": baseline})


def judge(check: str, evidence: ModelResult, policy: Policy = POLICY) -> Verdict:
    [verdict] = judge_result(evidence, policy, [check])
    assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))
    return verdict


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, Status.PASS),
        (0.7500001, Status.PASS),
        (1.2499999, Status.PASS),
        (0.7499, Status.FAIL),
        (1.2501, Status.FAIL),
        (0.5, Status.FAIL),
        (0.0, Status.FAIL),
        (-1.0, Status.FAIL),
    ],
)
def test_a_super_weight_may_drift_by_a_quarter_and_no_further(factor: float, status: Status) -> None:
    verdict = judge(WEIGHT, hold(BEFORE * factor))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(abs(factor - 1))
    assert ("its sign has changed" in verdict.because) is (factor < 0)


def test_a_flipped_sign_fails_however_far_drift_is_allowed() -> None:
    policy = Policy.model_validate({"compare": "main", "checks": {"super-weight-unmoved": {"maximum_drift": 1.0}}})
    assert judge(WEIGHT, hold(0.0), policy).status is Status.FAIL
    assert judge(WEIGHT, hold(0.001 * BEFORE), policy).status is Status.PASS
    assert judge(WEIGHT, hold(-0.001 * BEFORE), policy).status is Status.FAIL


def test_a_super_weight_that_cannot_be_read_fails() -> None:
    verdict = judge(WEIGHT, hold(None))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None


def test_a_super_weight_that_kept_its_value_but_is_located_no_more_is_in_doubt_and_new_ones_are_named() -> None:
    elsewhere = SUPER_WEIGHT.model_copy(update={"row": 5, "column": 6, "value": 0.75})
    moved = make_location().model_copy(update={"super_weights": (elsewhere,)})
    verdict = judge(WEIGHT, hold(now=moved))
    assert verdict.status is Status.INCONCLUSIVE
    assert "no longer located" in verdict.because
    new = verdict.findings[-1]
    assert (new.label, new.status, new.observed) == ("layer 1 [5, 6]", Status.SKIPPED, 0.75)
    assert judge(WEIGHT, hold(0.5 * BEFORE, now=moved)).status is Status.FAIL


def test_a_baseline_without_super_weights_has_nothing_to_compare() -> None:
    none = hold(then=make_location(Outcome.NONE))
    assert judge(WEIGHT, none).status is Status.SKIPPED
    assert judge(ACTIVATION, none).status is Status.SKIPPED
    assert judge(QUALITY, none).status is Status.PASS


@pytest.mark.parametrize(
    ("ratio", "status"),
    [
        (1.0, Status.PASS),
        (0.6, Status.PASS),
        (1.67, Status.PASS),
        (0.599, Status.FAIL),
        (1.671, Status.FAIL),
        (-1.0, Status.FAIL),
        (0.0, Status.FAIL),
    ],
)
def test_a_super_activation_keeps_its_magnitude_and_sign(ratio: float, status: Status) -> None:
    # 400 is a number that the limits scale exactly.
    loud = SUPER_ACTIVATION.model_copy(update={"value": 400.0})
    then = make_location().model_copy(update={"super_activations": (loud,)})
    verdict = judge(ACTIVATION, hold(activation=400.0 * ratio, then=then))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(ratio)
    assert f"channel {CHANNEL}, token 0" in verdict.because


@pytest.mark.parametrize(
    ("values", "worst"),
    [((200.0, 40.0, 900.0), 0.1), ((40.0, 40_000.0, 200.0), 100.0), ((40.0, -390.0), -0.975)],
)
def test_of_several_super_activations_the_furthest_decides(values: tuple[float, ...], worst: float) -> None:
    evidence = hold()
    assert evidence.baseline is not None
    activations = tuple(
        HeldActivation(channel=place, token=0, before=400.0, value=value) for place, value in enumerate(values)
    )
    baseline = evidence.baseline.model_copy(update={"activations": activations})
    verdict = judge(ACTIVATION, evidence.model_copy(update={"baseline": baseline}))
    assert verdict.observed == worst
    assert {one.status for one in verdict.findings} == {Status.FAIL}


@pytest.mark.parametrize(
    ("identity", "location", "reason"),
    [
        ({"dtype": "bfloat16"}, {}, "run in bfloat16"),
        ({"hidden_size": 4096}, {}, "of width 4096"),
        ({}, {"token_ids": (0, 9)}, "another prompt"),
        ({}, {"depth": "early"}, "not all layers"),
    ],
)
def test_super_activations_of_another_prompt_dtype_or_shape_are_not_compared(
    identity: dict[str, object], location: dict[str, object], reason: str
) -> None:
    verdict = judge(ACTIVATION, hold(then=make_location().model_copy(update=location), **identity))
    assert verdict.status is Status.INCONCLUSIVE
    assert reason in verdict.because


@pytest.mark.parametrize(
    ("before", "status"),
    [(6.25, Status.PASS), (5.9, Status.PASS), (5.0, Status.FAIL), (6.25 / 1.1, Status.INCONCLUSIVE)],
)
def test_quality_is_judged_on_the_interval_of_the_ratio(before: float, status: Status) -> None:
    verdict = judge(QUALITY, hold(perplexity=before))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(6.25 / before)
    assert verdict.protocol == make_protocol().signature


def test_a_baseline_that_had_collapsed_is_no_excuse() -> None:
    assert judge(QUALITY, hold(perplexity=None)).status is Status.FAIL


def test_under_another_protocol_quality_is_in_doubt_and_the_reason_names_what_differs() -> None:
    other = make_protocol(seed=3).model_copy(update={"window": 128})
    verdict = judge(QUALITY, hold(protocol=other))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is None
    assert "window 128 then, 64 now; seed 3 then, 0 now" in verdict.because


def test_protocols_differ_in_words() -> None:
    now = make_protocol()
    text = now.corpus.model_copy(update={"name": "wiki.txt", "sha256": "0" * 64})
    assert compare_protocols(now.model_copy(update={"corpus": text}), now) == (
        "another text (wiki.txt then, specimen now)"
    )
    assert compare_protocols(now.model_copy(update={"tokenizer": "0" * 64}), now) == "another tokenizer"


def test_the_checks_on_a_baseline_run_only_where_something_is_compared() -> None:
    wanted = {WEIGHT, ACTIVATION, QUALITY}
    assert wanted <= {check.id for check in list_checks(POLICY)}
    assert wanted.isdisjoint({check.id for check in list_checks(Policy())})
    assert judge(WEIGHT, make_evidence(), Policy()).status is Status.SKIPPED
    assert judge(WEIGHT, make_evidence()).status is Status.INCONCLUSIVE
