"""What single checks say of made-up evidence in which a few perplexity ratios differ."""

from __future__ import annotations

from typing import Any

from support.evidence import HEALTHY, make_evidence, make_policy

from sw_audit.checks.activation_holdout_quality import ActivationHoldoutQualityLimits, activation_holdout_quality
from sw_audit.checks.holdout_beats_plain_rtn import HoldoutBeatsPlainRtnLimits, holdout_beats_plain_rtn
from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.rtn_holdout_quality import RtnHoldoutQualityLimits, rtn_holdout_quality
from sw_audit.policy.policy import Policy, QuantizationPolicy
from sw_audit.policy.scheme import ActivationPolicy
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict


def judge_one(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    """Return what one check says, by default under the default policy."""
    (verdict,) = judge_result(evidence, policy or make_policy(), [check])
    return verdict


def judge_schemes(check: str, policy: Policy | None = None, **ratios: float | None) -> Verdict:
    """Judge schemes whose ratios are given as `w8a8_hold_out=...`; the others are healthy."""
    named = {
        name.replace("_", " ", 1).replace("hold_out", "hold-out").replace("_", " "): ratio
        for name, ratio in ratios.items()
    }
    return judge_one(check, make_evidence(ratios={**HEALTHY, **named}, policy=policy), policy)


def judge_recipes(check: str, policy: Policy, **ratios: float | None) -> Verdict:
    """Judge recipes whose ratios are given as `int4_tensor_plain=...`."""
    named = {
        name.replace("_", "/", 1).replace("_", " ").replace("hold out", "hold-out"): ratio
        for name, ratio in ratios.items()
    }
    return judge_one(check, make_evidence(ratios=named, policy=policy), policy)


def make_activation_policy(quality: dict[str, float] | None = None, **activations: Any) -> Policy:
    """Return a policy with these limits on schemes, and these settings of `[activations]`."""
    limits = {} if quality is None else {"maximum_ratio": quality}
    checks = CheckLimits({activation_holdout_quality.id: ActivationHoldoutQualityLimits.model_validate(limits)})
    return Policy(checks=checks, activations=ActivationPolicy(**activations))


def make_recipes_policy(*recipes: str, quality: dict[str, float] | None = None, **gain: Any) -> Policy:
    """Return a policy that measures these recipes, with these limits on quality and on the gain."""
    checks = {
        rtn_holdout_quality.id: RtnHoldoutQualityLimits(maximum_ratio=quality or {}),
        holdout_beats_plain_rtn.id: HoldoutBeatsPlainRtnLimits(**gain),
    }
    return Policy(quantization=QuantizationPolicy(recipes=recipes), checks=CheckLimits(checks))
