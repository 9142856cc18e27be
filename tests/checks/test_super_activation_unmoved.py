from __future__ import annotations

import pytest
from support.baselines import hold, judge
from support.evidence import CHANNEL, SUPER_ACTIVATION, make_location

from sw_audit.record.baseline import HeldActivation
from sw_audit.record.verdict import Status

ACTIVATION = "super-activation-unmoved"


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
