from __future__ import annotations

from typing import Any

from support.critical import EMBEDDING, LOCATED, NORM, make_effect, make_scalar, make_search
from support.evidence import make_evidence, make_none_evidence
from support.verdicts import judge_one

from sw_audit.record.critical import CriticalScalar, Effect
from sw_audit.record.verdict import Status, Verdict

CHECK = "super-weights-are-the-critical-scalars"
OWN = make_scalar(LOCATED.parameter, *LOCATED.index, ratio=6.6, located=True)
GAIN = make_scalar(NORM, 17, ratio=22.0)
ENTRY = make_scalar(EMBEDDING, 3, 3, ratio=1.01, kind=None)


def judge(*scalars: CriticalScalar, lead: Effect | None, **changes: Any) -> Verdict:
    search = make_search(*scalars, lead=lead, **changes)
    return judge_one(CHECK, make_evidence(critical=search))


def test_it_holds_where_the_costliest_scalar_is_a_super_weight() -> None:
    verdict = judge(OWN, ENTRY, lead=make_effect(0.15))
    assert (verdict.status, verdict.observed) == (Status.PASS, 0.15)
    assert f"The costliest other scalar is {EMBEDDING}[3, 3], times 1.01" in verdict.because
    assert f"the costliest super weight is {LOCATED}, times 6.6." in verdict.because


def test_it_does_not_hold_where_another_scalar_certainly_costs_more_and_that_one_is_named() -> None:
    verdict = judge(GAIN, OWN, ENTRY, lead=make_effect(3.3))
    assert (verdict.status, verdict.observed, verdict.limit) == (Status.FAIL, 3.3, 1.0)
    assert verdict.because.startswith(f"The costliest other scalar is {NORM}[17], times 22")
    assert verdict.remedy is not None
    assert verdict.remedy.startswith(f"This is a finding and no defect: protect {NORM}[17]")
    assert [finding.label for finding in verdict.findings] == [f"{NORM}[17]", str(LOCATED)]


def test_an_interval_that_includes_1_decides_nothing() -> None:
    verdict = judge(GAIN, OWN, lead=Effect(ratio=1.05, low=0.9, high=1.2, windows=8))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.remedy is not None
    assert 'effort = "thorough"' in verdict.remedy


def test_without_an_interval_it_is_inconclusive() -> None:
    assert judge(GAIN, OWN, lead=Effect(ratio=3.3, windows=2)).status is Status.INCONCLUSIVE


def test_a_scalar_without_which_nothing_is_finite_costs_most() -> None:
    broken = make_scalar(NORM, 3, ratio=None)
    verdict = judge(GAIN, broken, OWN, lead=Effect(ratio=None, windows=8))
    assert verdict.status is Status.FAIL
    assert f"The costliest other scalar is {NORM}[3], whose perplexity is not finite" in verdict.because


def test_where_the_super_weights_own_effect_is_not_finite_nothing_can_be_compared() -> None:
    own = make_scalar(LOCATED.parameter, *LOCATED.index, ratio=None, located=True)
    assert judge(GAIN, own, lead=Effect(ratio=None, windows=8)).status is Status.INCONCLUSIVE


def test_an_interval_without_an_upper_end_never_passes() -> None:
    assert judge(OWN, ENTRY, lead=Effect(ratio=0.2, low=0.1, windows=8)).status is Status.INCONCLUSIVE


def test_of_a_scalar_that_was_never_alone_it_is_told_that_and_it_decides_nothing() -> None:
    paired = make_scalar(EMBEDDING, 11, 7, kind="together", effect=None)
    verdict = judge(OWN, GAIN, paired, lead=make_effect(3.3))
    assert [one.because for one in verdict.findings] == [*["zeroed alone"] * 2, "zeroed only together with others"]
    assert judge(OWN, paired, lead=None).status is Status.SKIPPED


def test_located_scalars_that_are_inert_are_told() -> None:
    impacts: dict[str, Any] = {str(LOCATED): "bearing", f"{LOCATED.parameter}[5, 7]": "inert"}
    verdict = judge(OWN, ENTRY, lead=make_effect(0.15), impacts=impacts)
    assert f"; inert: {LOCATED.parameter}[5, 7]." in verdict.because


def test_it_is_skipped_without_a_search_another_scalar_or_a_super_weight() -> None:
    verdict = judge_one(CHECK, make_evidence(critical=None))
    assert (verdict.status, verdict.because) == (Status.SKIPPED, "Nobody searched for the scalars that matter.")
    assert judge(OWN, lead=None).status is Status.SKIPPED
    assert judge_one(CHECK, make_none_evidence()).status is Status.SKIPPED
