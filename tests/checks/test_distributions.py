from __future__ import annotations

from support.descent import judge_descent, make_descent_evidence, make_text, with_agreement

from sw_audit.record.arm import DESCENDANT
from sw_audit.record.measurement import Agreement
from sw_audit.record.verdict import Status


def test_too_few_windows_give_no_verdict() -> None:
    for check in ("kl-divergence", "top1-agreement"):
        verdict = judge_descent(check, with_agreement(windows=3))
        assert verdict.status is Status.INCONCLUSIVE
        assert "3 windows give no interval" in verdict.because


def test_figures_of_other_tokens_are_never_compared() -> None:
    agreement = Agreement(divergence=(0.0,) * 32, same_top=(60,) * 32, tokens=(62,) * 32)
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.01}, agreement=agreement))
    for check in ("kl-divergence", "top1-agreement"):
        verdict = judge_descent(check, evidence)
        assert verdict.status is Status.INCONCLUSIVE
        assert "not read at the same tokens" in verdict.because
