from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.descent import judge_descent, make_descent_evidence, make_descent_policy, make_layers, make_text
from support.evidence import make_evidence, make_identity
from support.verdicts import judge_one

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.range_fits_dtype import MAXIMA, RangeFitsDtypeLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import DESCENDANT
from sw_audit.record.measurement import PerWindow
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status

RANGE = "range-fits-dtype"


def with_dtype(dtype: str, **changes: float | bool | None) -> ModelResult:
    evidence = make_descent_evidence(layers=make_layers([1e-2] * 4, **changes))
    return evidence.model_copy(update={"model": make_identity("child").model_copy(update={"dtype": dtype})})


@pytest.mark.parametrize(
    ("peak", "status"), [(32_752.0, Status.PASS), (32_753.0, Status.FAIL), (70_000.0, Status.FAIL)]
)
def test_half_of_what_float16_holds_is_allowed(peak: float, status: Status) -> None:
    verdict = judge_descent(RANGE, with_dtype("float16", down_output=peak))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(peak / 65_504)


def test_in_another_dtype_what_it_would_be_in_float16_is_told() -> None:
    verdict = judge_descent(RANGE, with_dtype("bfloat16", down_input=131_008.0))
    assert verdict.status is Status.PASS
    [told] = [finding for finding in verdict.findings if finding.label == "in float16"]
    assert told.observed == 2
    assert "it overflows" in told.because


def alone(dtype: str, peaks: Sequence[float | None], **changes: PerWindow) -> ModelResult:
    """Return a model by itself, with the peaks of its residual stream layer by layer."""
    result = make_evidence()
    baseline = result.measurements[0].model_copy(update={"peaks": tuple(peaks), **changes})
    model = result.model.model_copy(update={"dtype": dtype})
    return result.model_copy(update={"measurements": (baseline, *result.measurements[1:]), "model": model})


@pytest.mark.parametrize(
    ("dtype", "peak", "status"),
    [
        ("float16", 24_836.0, Status.PASS),
        ("float16", 32_753.0, Status.FAIL),
        ("bfloat16", 1e6, Status.PASS),
        ("float32", 1e6, Status.PASS),
    ],
)
def test_the_residual_stream_of_a_model_by_itself_is_held_against_its_dtype(
    dtype: str, peak: float, status: Status
) -> None:
    verdict = judge_one(RANGE, alone(dtype, [3.0, peak, 3.0]))
    assert verdict.status is status
    assert verdict.observed == peak / MAXIMA[dtype]
    assert verdict.because.startswith("layer 1, residual stream: up to ")


def test_what_overflows_in_float16_is_told_of_a_model_in_another_dtype() -> None:
    verdict = judge_one(RANGE, alone("float32", [3.0, 131_008.0]))
    told = {finding.label: finding for finding in verdict.findings if finding.status is Status.SKIPPED}
    assert told["in float16"].observed == 2
    assert "it overflows" in told["in float16"].because
    assert told["in bfloat16"].observed == 131_008 / MAXIMA["bfloat16"]
    assert "overflows" not in told["in bfloat16"].because


def test_the_down_projections_of_a_model_by_itself_count_as_well() -> None:
    verdict = judge_one(RANGE, alone("float16", [3.0, 3.0], down_inputs=(40_000.0, None), down_outputs=(1.0, 1.0)))
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("layer 0, input of the down-projection")


def test_a_residual_stream_that_is_not_finite_fails_and_says_after_which_layer() -> None:
    verdict = judge_one(RANGE, alone("float32", [3.0, None, None]))
    assert verdict.status is Status.FAIL
    assert verdict.because == "layer 1, residual stream: it is not finite."


def test_a_model_that_was_not_measured_passes_nothing() -> None:
    result = make_evidence().model_copy(update={"measurements": ()})
    assert judge_one(RANGE, result).status is Status.INCONCLUSIVE


def test_the_residual_stream_of_a_descendant_counts_too() -> None:
    text = make_text({DESCENDANT.name: 1.0}, peaks=(3.0, 40_000.0))
    result = make_descent_evidence(text).model_copy(
        update={"model": make_identity("child").model_copy(update={"dtype": "float16"})}
    )
    verdict = judge_descent(RANGE, result)
    assert verdict.status is Status.FAIL
    assert verdict.because.startswith("layer 1, residual stream")


def test_the_dtype_that_it_will_run_in_can_be_named() -> None:
    checks = CheckLimits({"range-fits-dtype": RangeFitsDtypeLimits(dtype="float16")})
    policy: Policy = make_descent_policy().model_copy(update={"checks": checks})
    verdict = judge_descent(RANGE, with_dtype("bfloat16", down_input=131_008.0), policy)
    assert verdict.status is Status.FAIL
    assert "float16" in (verdict.remedy or "")


def test_a_range_that_is_not_finite_fails() -> None:
    verdict = judge_descent(RANGE, with_dtype("float32", down_input=None, finite=False))
    assert verdict.status is Status.FAIL
    assert verdict.observed is None


def test_a_dtype_whose_maximum_is_not_known_is_skipped() -> None:
    assert judge_descent(RANGE, with_dtype("float4_e2m1fn_x2")).status is Status.SKIPPED


def test_the_maxima_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    assert {name: torch.finfo(getattr(torch, name)).max for name in MAXIMA} == MAXIMA
