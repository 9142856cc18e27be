from __future__ import annotations

from typing import Any

import pytest
from support.evidence import make_address, make_evidence

from sw_audit.checks.context import CheckContext
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.quantization_as_configured import QuantizationAsConfiguredLimits, quantization_as_configured
from sw_audit.policy.policy import Policy
from sw_audit.record.checkpoint import Contradiction, HeldScalar, PatternCount, QuantizationReport, QuantizedModule
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

MODULE = QuantizedModule(module="model.layers.1.mlp.down_proj", bits=4, group=32)
HELD = HeldScalar(address=make_address(), module=MODULE, parent=-2.0, value=-1.5, step=0.25)
QUANTIZED = QuantizationReport(
    method="gptq",
    described="4 bits, groups of 32",
    patterns=(PatternCount(key="ignore", pattern="lm_head", modules=1),),
    quantized=(MODULE,),
    super_weights=(HELD,),
)


def judge_quantization(report: QuantizationReport | None, **limits: Any) -> Verdict:
    evidence: ModelResult = make_evidence().model_copy(update={"quantization": report})
    policy = Policy(checks=CheckLimits({"quantization-as-configured": QuantizationAsConfiguredLimits(**limits)}))
    return quantization_as_configured.rule(CheckContext(quantization_as_configured, evidence, policy))


def test_a_checkpoint_that_is_not_quantized_is_skipped() -> None:
    assert judge_quantization(None).status is Status.SKIPPED


def test_patterns_that_all_match_pass_and_the_super_weight_is_named_with_its_bits_and_error() -> None:
    verdict = judge_quantization(QUANTIZED)
    assert (verdict.status, verdict.observed, verdict.limit) == (Status.PASS, 0, 0)
    held = verdict.findings[-1]
    # (2 - 1.5) / 2
    assert (held.label, held.observed, held.limit) == (str(HELD.address), 0.25, None)
    assert held.because == "4 bits, groups of 32, scale 0.25: -2 in the parent, -1.5 here."


@pytest.mark.parametrize(("allowed", "status"), [(0, Status.FAIL), (1, Status.PASS)])
def test_a_pattern_that_matches_nothing_fails_unless_it_may(allowed: int, status: Status) -> None:
    lost = PatternCount(key="ignore", pattern="re:.*down_prjo", modules=0)
    report = QUANTIZED.model_copy(update={"patterns": (*QUANTIZED.patterns, lost)})
    verdict = judge_quantization(report, maximum_unmatched=allowed)
    assert (verdict.status, verdict.observed, verdict.limit) == (status, 1, allowed)
    assert "1 of 2 patterns match nothing: ignore 're:.*down_prjo'" in verdict.because
    if status is Status.FAIL:
        assert verdict.remedy is not None
        assert verdict.remedy.startswith("Correct `re:.*down_prjo` in `ignore`")


def test_a_method_that_quantized_nothing_fails() -> None:
    assert judge_quantization(QUANTIZED.model_copy(update={"quantized": ()})).status is Status.FAIL


def test_what_was_left_out_unasked_is_listed_and_fails_nothing() -> None:
    left = tuple(f"model.layers.{layer}.mlp.experts" for layer in range(5))
    verdict = judge_quantization(QUANTIZED.model_copy(update={"unquantized": left}))
    [finding] = [one for one in verdict.findings if one.label == "left unquantized"]
    assert (verdict.status, finding.status, finding.observed) == (Status.PASS, Status.SKIPPED, 5)
    assert finding.because.endswith(f"{left[0]}, {left[1]}, {left[2]} and 2 more.")


@pytest.mark.parametrize(
    ("value", "limit", "status"),
    [(-1.5, 0.25, Status.PASS), (-1.5, 0.2, Status.FAIL), (None, 0.25, Status.FAIL), (2.0, 1.0, Status.FAIL)],
)
def test_the_rounding_error_is_held_where_a_limit_is_set(
    value: float | None, limit: float, status: Status
) -> None:
    held = HELD.model_copy(update={"value": value})
    report = QUANTIZED.model_copy(update={"super_weights": (held,)})
    assert judge_quantization(report, maximum_error=limit).status is status
    assert judge_quantization(report).status is Status.PASS


@pytest.mark.parametrize(("serious", "status"), [(True, Status.FAIL), (False, Status.PASS)])
def test_what_is_stored_otherwise_than_said_fails_where_it_is_serious(status: Status, *, serious: bool) -> None:
    one = Contradiction(where="it.gguf", said="its name says Q4_K_M", stored="most is Q2_K", serious=serious)
    verdict = judge_quantization(QUANTIZED.model_copy(update={"contradictions": (one,)}))
    [finding] = [found for found in verdict.findings if found.label == "it.gguf"]
    assert verdict.status is status
    assert finding.status is (Status.FAIL if serious else Status.SKIPPED)
    assert finding.because == "its name says Q4_K_M, and most is Q2_K."
    assert ("; it.gguf: its name says Q4_K_M, and most is Q2_K." in verdict.because) is serious
