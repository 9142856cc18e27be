from __future__ import annotations

import pytest
from support.descent import judge_descent, make_descent_evidence, make_descent_policy, make_layers
from support.evidence import make_identity

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.range_fits_dtype import MAXIMA, RangeFitsDtypeLimits
from sw_audit.policy.policy import Policy
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
    assert verdict.findings[-1].label == "in float16"
    assert verdict.findings[-1].observed == 2


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
