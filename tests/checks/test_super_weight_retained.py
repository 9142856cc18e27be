from __future__ import annotations

import pytest
from support.descent import MODULE, judge_descent, make_descent_evidence, make_retained, make_ridden, make_text
from support.evidence import PARAMETER, SUPER_WEIGHT

from sw_audit.record.arm import DESCENDANT, RESTORED_WEIGHTS
from sw_audit.record.checkpoint import QuantizationReport
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status

WEIGHT, ACTIVATION = "super-weight-retained", "super-activation-retained"


def with_weights(*factors: float | None) -> ModelResult:
    return make_descent_evidence(super_weights=tuple(make_retained(factor) for factor in factors))


@pytest.mark.parametrize(
    ("factor", "status"),
    [
        (1.0, Status.PASS),
        (0.7500001, Status.PASS),
        (1.2499999, Status.PASS),
        (0.7499, Status.FAIL),
        (1.2501, Status.FAIL),
        (0.0, Status.FAIL),
        (-1.0, Status.FAIL),
    ],
)
def test_a_super_weight_may_be_off_by_a_quarter(factor: float, status: Status) -> None:
    verdict = judge_descent(WEIGHT, with_weights(factor))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(abs(factor - 1))
    assert verdict.coordinates == (f"{PARAMETER}[37, 211]",)
    assert verdict.protocol is None


def test_a_turned_sign_is_said() -> None:
    assert "its sign has turned" in judge_descent(WEIGHT, with_weights(-1.0)).because
    assert "sign" not in judge_descent(WEIGHT, with_weights(0.0)).because


def test_the_worst_of_several_decides() -> None:
    verdict = judge_descent(WEIGHT, with_weights(1.0, 0.3, 0.9))
    assert verdict.observed == pytest.approx(0.7)
    assert [one.status for one in verdict.findings] == [Status.PASS, Status.FAIL, Status.PASS]


def test_what_cannot_be_read_is_inconclusive_and_what_is_not_finite_fails() -> None:
    unread = judge_descent(WEIGHT, make_descent_evidence(super_weights=(make_retained(None),)))
    assert unread.status is Status.INCONCLUSIVE
    assert "cannot be read" in unread.because
    broken = judge_descent(WEIGHT, make_descent_evidence(super_weights=(make_retained(None, finite=False),)))
    assert broken.status is Status.FAIL
    assert broken.observed is None
    assert "not finite" in broken.because


def test_neighbours_are_told_and_decide_nothing() -> None:
    weight = make_retained(1.0, row_error=0.97, column_error=0.1)
    verdict = judge_descent(WEIGHT, make_descent_evidence(super_weights=(weight,)))
    row, column = verdict.findings[1:]
    assert verdict.status is Status.PASS
    assert (row.observed, column.observed) == (0.97, 0.1)
    assert "its neighbours are lost" in row.because
    assert "lost" not in column.because


def test_a_quantized_model_is_told_what_to_leave_out_and_a_trained_one_what_to_put_back() -> None:
    trained = with_weights(0.1)
    quantized = trained.model_copy(update={"quantization": QuantizationReport(method="gptq")})
    for evidence, begins in ((trained, "Put the parent's values back"), (quantized, f"Leave {MODULE} out")):
        verdict = judge_descent(WEIGHT, evidence)
        assert verdict.remedy is not None
        assert verdict.remedy.startswith(begins)
        assert f'ignore=["lm_head", "{MODULE}"]' in verdict.remedy
        assert len(verdict.paste) == 3
    assert f"[37, 211] = {SUPER_WEIGHT.value!r}" in (judge_descent(WEIGHT, trained).remedy or "")


def test_what_was_not_looked_up_is_inconclusive() -> None:
    assert judge_descent(WEIGHT, make_descent_evidence(super_weights=())).status is Status.INCONCLUSIVE
    assert judge_descent(ACTIVATION, make_descent_evidence(super_activations=())).status is Status.INCONCLUSIVE
    unfollowed = make_descent_evidence(super_activations=(make_ridden([]),))
    assert judge_descent(ACTIVATION, unfollowed).status is Status.INCONCLUSIVE


def test_where_putting_them_back_recovers_little_it_is_said_that_this_alone_will_not_do() -> None:
    def advise(ratio: float) -> str:
        text = make_text({DESCENDANT.name: 8.0, RESTORED_WEIGHTS.name: ratio})
        evidence = make_descent_evidence(text, super_weights=(make_retained(0.5),))
        return judge_descent(WEIGHT, evidence).remedy or ""

    # (ln 8 - ln 6) / ln 8 is 13.8 %, with 1.2 it is 91.2 %.
    assert "This alone will not do: with the parent's super weight put back 13.8 % [" in advise(6.0)
    assert "alone" not in advise(1.2)
