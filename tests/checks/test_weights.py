from __future__ import annotations

from typing import Any

import pytest
from support.evidence import make_address, make_evidence, make_policy

from sw_audit.checks.context import CheckContext
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.quantization_as_configured import QuantizationAsConfiguredLimits, quantization_as_configured
from sw_audit.checks.weights_intact import judge_failure, weights_intact
from sw_audit.policy.policy import Policy
from sw_audit.record.quantized import HeldScalar, PatternCount, QuantizationReport, QuantizedModule
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Status, Verdict
from sw_audit.record.weights import Flaw, WeightsReport

MODULE = QuantizedModule(module="model.layers.1.mlp.down_proj", bits=4, group=32)
HELD = HeldScalar(address=make_address(), module=MODULE, parent=-2.0, value=-1.5, step=0.25)
QUANTIZED = QuantizationReport(
    method="gptq",
    described="4 bits, groups of 32",
    patterns=(PatternCount(key="ignore", pattern="lm_head", modules=1),),
    quantized=(MODULE,),
    super_weights=(HELD,),
)
BROKEN = WeightsReport(
    files=2,
    tensors=30,
    scanned=30,
    flaws=(Flaw(kind="non-finite", where="a.weight", found="it holds 2 NaN"),),
    counts={"non-finite": 7},
    serious=7,
    remedy="take an earlier checkpoint",
)


def judge_files(report: WeightsReport | None) -> Verdict:
    evidence = make_evidence().model_copy(update={"weights": report})
    return weights_intact.rule(CheckContext(weights_intact, evidence, make_policy()))


def judge_quantization(report: QuantizationReport | None, **limits: Any) -> Verdict:
    evidence: ModelResult = make_evidence().model_copy(update={"quantization": report})
    policy = Policy(checks=CheckLimits({"quantization-as-configured": QuantizationAsConfiguredLimits(**limits)}))
    return quantization_as_configured.rule(CheckContext(quantization_as_configured, evidence, policy))


def test_files_in_which_nothing_serious_was_found_pass() -> None:
    mild = Flaw(kind="zero-group", where="a.weight", found="3 runs are zero", serious=False)
    report = WeightsReport(files=2, tensors=30, scanned=29, flaws=(mild,), counts={"zero-group": 1})
    verdict = judge_files(report)
    assert (verdict.status, verdict.observed, verdict.limit, verdict.remedy) == (Status.PASS, 0, 0, None)
    assert verdict.because == (
        "2 files with 30 tensors were looked at, 29 value by value, and nothing serious was found; "
        "1 things are unusual."
    )
    [finding] = verdict.findings
    assert (finding.label, finding.status) == ("zero-group: a.weight", Status.SKIPPED)


def test_one_serious_flaw_fails_and_all_are_counted() -> None:
    verdict = judge_files(BROKEN)
    assert (verdict.status, verdict.observed, verdict.limit) == (Status.FAIL, 7, 0)
    assert verdict.because == "a.weight: it holds 2 NaN (and 6 more)."
    assert verdict.remedy == "Take an earlier checkpoint."


def test_files_that_nobody_looked_at_pass_nothing() -> None:
    assert judge_files(None).status is Status.INCONCLUSIVE


def test_a_failure_is_one_verdict_and_the_others_are_skipped() -> None:
    failure = ModelFailure(model="it", message="it holds 2 NaN", weights=BROKEN)
    intact, other = judge_failure(failure, ["weights-intact", "kl-divergence"])
    assert (intact.status, intact.observed, intact.quantity) == (Status.FAIL, 7, "serious flaws")
    assert (other.status, other.check, other.model) == (Status.SKIPPED, "kl-divergence", "it")


def test_without_the_check_itself_the_others_are_no_skip_that_would_pass() -> None:
    failure = ModelFailure(model="it", message="it holds 2 NaN", weights=BROKEN)
    [verdict] = judge_failure(failure, ["kl-divergence"])
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None


def test_a_model_that_failed_for_another_reason_has_no_verdicts() -> None:
    assert judge_failure(ModelFailure(model="it", message="gone"), ["weights-intact"]) == ()


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
