from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.arm import BASELINE, Arm, CacheRounding
from sw_audit.record.engine import EngineIdentity, EngineResult
from sw_audit.record.measurement import Agreement, Measurement, TokenLoss
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict
from tests.support.evidence import make_policy, make_record

WINDOWS, TOKENS = 8, 50
OWN = tuple(100.0 + window % 3 for window in range(WINDOWS))


def measure(result: ModelResult, arm: Arm, nats: Sequence[float | None], kld: float | None) -> Measurement:
    counts = (TOKENS,) * WINDOWS
    # Windows differ a little, or an interval would have no width.
    sums = tuple(None if kld is None else TOKENS * kld * (0.9 + 0.02 * window) for window in range(WINDOWS))
    return Measurement(
        model=result.id,
        arm=arm,
        protocol=result.protocol.signature,
        loss=TokenLoss(nats=tuple(nats), tokens=counts),
        agreement=Agreement(divergence=sums, same_top=(49,) * WINDOWS, tokens=counts),
        peaks=(),
        seconds=0.0,
    )


def make_result(own: Sequence[float | None] = OWN, **ratios: float | None) -> ModelResult:
    """Make a model in an engine, with a perplexity ratio of each form that differs a little between windows."""
    result = make_record(windows=WINDOWS).results[0]
    measured = [measure(result, BASELINE, own, 0.0)]
    for form, ratio in ratios.items():
        nats = [
            None if ratio is None else nats + TOKENS * math.log(ratio) * (0.9 + 0.2 * (place % 2))
            for place, nats in enumerate(OWN)
        ]
        arm = Arm(purpose=CacheRounding(form=form))
        measured.append(measure(result, arm, nats, None if ratio is None else 0.02))
    engine = EngineResult(identity=EngineIdentity(engine="llama.cpp", version="b1", vocabulary=100))
    update = {"measurements": tuple(measured), "engine": engine, "looks": (), "verdicts": ()}
    return result.model_copy(update=update)


def judge(result: ModelResult, policy: Policy | None = None) -> Verdict:
    [verdict] = judge_result(result, policy or make_policy(), ["kv-cache-harmless"])
    return verdict


def ask(*forms: str) -> Policy:
    """Ask for forms of the cache of the model that the evidence is on."""
    model = ModelPolicy(id=make_result().id, source="out", engine="llama.cpp", kv_cache=forms)
    return make_policy().model_copy(update={"models": (model,)})


def test_the_worst_form_decides_and_the_divergence_is_told() -> None:
    verdict = judge(make_result(q8_0=1.001, q4_0=1.5))
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(1.5)
    assert (verdict.limit, verdict.arm) == (1.1, "kv-cache/q4_0")
    assert verdict.because.startswith("Cache in q4_0: perplexity ")
    assert verdict.remedy is not None
    assert "keys-in-proportion" in verdict.remedy
    figures = {finding.label: finding for finding in verdict.findings}
    assert (figures["q8_0"].status, figures["q4_0"].status) == (Status.PASS, Status.FAIL)
    told = figures["q4_0: Mean KLD"]
    assert (told.status, told.limit) == (Status.SKIPPED, None)
    assert told.observed == pytest.approx(0.02 * 0.97)


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(1.05, Status.PASS), (1.1, Status.INCONCLUSIVE), (1.15, Status.FAIL), (None, Status.FAIL)],
)
def test_the_unfavourable_end_of_the_interval_is_held_against_the_margin(
    ratio: float | None, status: Status
) -> None:
    assert judge(make_result(q4_0=ratio)).status is status


def test_by_an_own_cache_that_is_not_finite_nothing_can_be_told() -> None:
    assert judge(make_result(own=(None,) * WINDOWS, q4_0=1.0)).status is Status.INCONCLUSIVE


def test_a_form_that_was_asked_for_and_not_measured_passes_nothing() -> None:
    verdict = judge(make_result(q8_0=1.0), ask("q8_0", "q4_0"))
    assert verdict.status is Status.INCONCLUSIVE
    assert "'kv-cache/q4_0' was not measured" in verdict.because


def test_where_no_form_is_asked_for_there_is_nothing_to_judge() -> None:
    assert judge(make_result()).status is Status.SKIPPED
    assert judge(make_result(q4_0=9.0), ask()).status is Status.FAIL  # measured once, and judged again


def test_without_an_engine_it_is_skipped() -> None:
    verdict = judge(make_result(q4_0=1.0).model_copy(update={"engine": None}))
    assert verdict.status is Status.SKIPPED
    assert "transformers" in verdict.because
