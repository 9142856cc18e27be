from __future__ import annotations

import pytest
from support.descent import judge_descent, make_descent_evidence, make_descent_policy, make_text, with_agreement

from sw_audit.checks.kl_divergence import KlDivergenceLimits
from sw_audit.checks.limits import CheckLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import DESCENDANT
from sw_audit.record.measurement import Agreement, DivergenceSpread
from sw_audit.record.verdict import Status

TOKENS = (63,) * 32


def with_limits(**limits: float) -> Policy:
    checks = CheckLimits({"kl-divergence": KlDivergenceLimits(**limits)})
    return make_descent_policy().model_copy(update={"checks": checks})


@pytest.mark.parametrize(("mean", "status"), [(0.0, Status.PASS), (0.0999, Status.PASS), (0.1001, Status.FAIL)])
def test_the_mean_divergence_is_held_against_its_limit(mean: float, status: Status) -> None:
    verdict = judge_descent("kl-divergence", with_agreement(mean))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(mean)
    assert verdict.quantity == "Mean KLD, nats per token"


def test_an_interval_that_straddles_the_limit_is_inconclusive() -> None:
    agreement = Agreement(divergence=(0.0, 63 * 0.2) * 16, same_top=(60,) * 32, tokens=TOKENS)
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.01}, agreement=agreement))
    verdict = judge_descent("kl-divergence", evidence)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 0.1 < verdict.high


def test_the_spread_is_told_under_llama_cpps_names_and_decides_only_with_a_limit() -> None:
    # Every window alike, 2,016 tokens: half of them at 0.003, one in 21 at 0.7, a single one at 4.
    window = [0.003] * 60 + [0.7] * 3
    nats = [4.0, *(window * 32)[1:]]
    verdict = judge_descent("kl-divergence", with_agreement(tokens=nats))
    told = {one.label: (one.observed, one.low, one.high, one.status) for one in verdict.findings[1:]}
    assert told == {
        "specimen: Median KLD": (0.003, 0.003, 0.003, Status.SKIPPED),
        "specimen: 99.0% KLD": (0.7, 0.7, 0.7, Status.SKIPPED),
        "specimen: Maximum KLD": (4.0, None, None, Status.SKIPPED),
    }
    strict = judge_descent("kl-divergence", with_agreement(tokens=nats), with_limits(maximum_p99=0.5))
    assert strict.status is Status.FAIL
    assert (strict.observed, strict.limit) == (0.7, 0.5)
    assert strict.remedy is not None
    assert "[checks.kl-divergence] maximum_p99" in strict.remedy
    lenient = with_limits(maximum_p99=0.7, maximum_median=0.003)
    assert judge_descent("kl-divergence", with_agreement(tokens=nats), lenient).status is Status.PASS


def test_a_percentile_that_few_tokens_cannot_enclose_is_inconclusive() -> None:
    verdict = judge_descent(
        "kl-divergence", with_agreement(tokens=[0.001] * 63 * 4, windows=4), with_limits(maximum_p99=0.5)
    )
    assert verdict.status is Status.INCONCLUSIVE
    assert (verdict.observed, verdict.high) == (0.001, None)
    assert "0.001 to unbounded" in verdict.because


def test_the_summary_of_a_record_that_kept_no_tokens_is_told_and_decides_nothing() -> None:
    spread = DivergenceSpread(median=0.003, p99=0.7, maximum=4.0)
    agreement = Agreement(divergence=(0.63,) * 32, same_top=(60,) * 32, tokens=TOKENS, spread=spread)
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.01}, agreement=agreement))
    verdict = judge_descent("kl-divergence", evidence)
    assert [one.observed for one in verdict.findings[1:]] == [0.003, 0.7, 4.0]
    assert judge_descent("kl-divergence", evidence, with_limits(maximum_p99=5)).status is Status.INCONCLUSIVE


def test_a_limit_on_a_figure_that_was_not_measured_is_inconclusive() -> None:
    verdict = judge_descent("kl-divergence", with_agreement(), with_limits(maximum_median=0.5))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.because.startswith("specimen: Median KLD is not measured")


def test_a_distribution_that_rules_out_what_the_parent_expects_fails() -> None:
    for check in ("kl-divergence", "top1-agreement"):
        verdict = judge_descent(check, with_agreement(None))
        assert verdict.status is Status.FAIL
        assert "gives no chance to what its parent expects" in verdict.because
