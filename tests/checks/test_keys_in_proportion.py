from __future__ import annotations

from typing import Any

import pytest
from support.evidence import make_evidence
from support.qwen2 import build_qwen2
from support.verdicts import judge_one

from sw_audit.checks.keys_in_proportion import KeysInProportionLimits
from sw_audit.checks.limits import CheckLimits
from sw_audit.measure.keys import read_keys
from sw_audit.policy.policy import Policy
from sw_audit.record.keys import CachedKeyError, CacheKind, KeyChannel, KeyReport, LayerKeys, UnreadKeys
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status
from sw_audit.testing.families import wrap_model

KEYS = "keys-in-proportion"


def make_layer(layer: int, bias: float = 0.0, **errors: float | None) -> LayerKeys:
    """Make the keys of a layer with errors by kind, head 1 the worst, a third more on the prompt."""
    return LayerKeys(
        layer=layer,
        projection=f"model.layers.{layer}.self_attn.k_proj",
        heads=2,
        channels=64,
        rotated=64,
        constant=KeyChannel(head=1, channel=5, partner=37, value=bias, ratio=abs(bias) / 2),
        spread=KeyChannel(head=0, channel=9, partner=41, value=4.0, ratio=2.0 + layer),
        errors=tuple(
            CachedKeyError(kind=kind, predicted=error, head=1, measured=error and error * 4 / 3)  # type: ignore[arg-type]
            for kind, error in errors.items()
        ),
    )


def with_keys(*layers: LayerKeys, **facts: Any) -> ModelResult:
    return make_evidence().model_copy(
        update={"attention_keys": KeyReport(layers=layers, draws=256, tokens=8, **facts)}
    )


def limited(**limits: Any) -> Policy:
    return Policy(checks=CheckLimits({KEYS: KeysInProportionLimits(**limits)}))


def test_the_worst_layer_of_the_worst_kind_decides() -> None:
    layers = make_layer(0, q8_0=0.01, q4_0=0.1), make_layer(3, bias=-80.0, q8_0=0.02, q4_0=0.6)
    verdict = judge_one(KEYS, with_keys(*layers))
    assert verdict.status is Status.FAIL
    assert (verdict.observed, verdict.limit) == (0.6, 0.5)
    assert verdict.because.startswith("q4_0: the error of the keys of layer 3, head 1 is 0.6 of their own size")
    assert "head 1, channel 5 (turned with 37), is -80 whatever the text, 40 times what" in verdict.because
    assert {one.label: one.status for one in verdict.findings if one.limit is not None} == {
        "q8_0": Status.PASS,
        "q4_0": Status.FAIL,
    }
    told = {one.label: one.because for one in verdict.findings if one.limit is None}
    assert "k_proj" in told["bias"]
    assert told["channels"].startswith("layer 3: head 0, channel 9 (turned with 41), is 5 times the median")


@pytest.mark.parametrize(("error", "status"), [(0.5, Status.PASS), (0.5000001, Status.FAIL), (None, Status.FAIL)])
def test_just_the_limit_passes_and_what_is_not_finite_does_not(error: float | None, status: Status) -> None:
    assert judge_one(KEYS, with_keys(make_layer(0, q4_0=error))).status is status


def test_no_bias_is_an_answer() -> None:
    verdict = judge_one(KEYS, with_keys(make_layer(0, q4_0=0.1)))
    assert verdict.status is Status.PASS
    assert "no part of its keys is the same for every text" in verdict.because


def test_the_kinds_that_are_judged_can_be_named() -> None:
    kinds: tuple[CacheKind, ...] = ("q8_0",)
    verdict = judge_one(KEYS, with_keys(make_layer(0, q8_0=0.1, q4_0=0.9)), limited(kinds=kinds))
    assert verdict.status is Status.PASS
    assert verdict.observed == 0.1


def test_a_kind_that_fits_no_head_is_skipped() -> None:
    verdict = judge_one(KEYS, with_keys(make_layer(0, fp8=0.1)), limited(kinds=("q4_0",)))
    assert verdict.status is Status.SKIPPED
    assert verdict.because == "No cache of q4_0 takes heads of 64 channels."


def test_layers_that_could_not_be_read_are_told() -> None:
    unread = (UnreadKeys(layers=(1, 2), because="it keeps no keys by head and token"),)
    verdict = judge_one(KEYS, with_keys(make_layer(0, q4_0=0.1), unread=unread))
    assert verdict.status is Status.PASS
    assert verdict.because.endswith("; 2 layers could not be read: it keeps no keys by head and token.")
    nothing = judge_one(KEYS, with_keys(unread=unread))
    assert nothing.status is Status.SKIPPED
    assert nothing.because == "2 layers could not be read: it keeps no keys by head and token."


def test_what_nobody_looked_at_passes_nothing() -> None:
    assert (
        judge_one(KEYS, make_evidence().model_copy(update={"attention_keys": None})).status is Status.INCONCLUSIVE
    )


@pytest.mark.parametrize(("bias", "failed"), [(0.0, set()), (40.0, {"q4_0"}), (400.0, {"q8_0", "q4_0", "fp8"})])
def test_a_real_model_with_a_planted_bias_is_failed_by_the_kinds_that_lose_its_keys(
    bias: float, failed: set[str]
) -> None:
    report = read_keys(wrap_model(build_qwen2(bias)), [1, 5, 7, 9, 11, 13, 17, 19])
    verdict = judge_one(KEYS, make_evidence().model_copy(update={"attention_keys": report}))
    assert {one.label for one in verdict.findings if one.status is Status.FAIL} == failed
    if failed:
        assert "layer 1, head 1" in verdict.because
        assert "head 1, channel 5" in verdict.because
