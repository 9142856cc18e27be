"""The bench: every check's rule, and the way from evidence and policy to verdicts."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from sw_audit.errors import PolicyError
from sw_audit.facts.checks import CHECKS, CheckInfo
from sw_audit.facts.policy import Policy
from sw_audit.facts.record import Evidence
from sw_audit.facts.verdict import Verdict
from sw_audit.judge.activations import judge_activation_quality, judge_gap
from sw_audit.judge.case import Case, Rule
from sw_audit.judge.confirmation import judge_dose, judge_rank
from sw_audit.judge.extra import ExtraCheck, find_extra_checks
from sw_audit.judge.location import judge_location
from sw_audit.judge.persistence import judge_persistence
from sw_audit.judge.pruning import judge_collapse, judge_healing, judge_others, judge_placebos
from sw_audit.judge.published import judge_published
from sw_audit.judge.rounding import judge_gain, judge_quality
from sw_audit.judge.text import judge_accuracy, judge_stopwords

RULES: dict[str, Rule] = {
    "super-weight-located": judge_location,
    "super-activation-persists": judge_persistence,
    "prune-collapses": judge_collapse,
    "other-outliers-harmless": judge_others,
    "placebo-harmless": judge_placebos,
    "effect-exceeds-placebos": judge_rank,
    "damage-follows-dose": judge_dose,
    "restored-activation-heals": judge_healing,
    "stopword-shift": judge_stopwords,
    "accuracy-falls-to-chance": judge_accuracy,
    "rtn-holdout-quality": judge_quality,
    "holdout-beats-plain-rtn": judge_gain,
    "activation-holdout-quality": judge_activation_quality,
    "holdout-closes-gap": judge_gap,
    "matches-published-index": judge_published,
}


def list_checks(policy: Policy) -> tuple[CheckInfo, ...]:
    """Return the checks that the policy runs: the built-in ones it has enabled, then the extra ones."""
    built_in = tuple(check for check in CHECKS if _is_enabled(check.id, policy))
    return built_in + tuple(check.info for check in find_extra_checks())


def judge_evidence(
    evidence: Evidence, policy: Policy, checks: Collection[str] | None = None
) -> tuple[Verdict, ...]:
    """Judge what was found and measured on one model.

    The same evidence and policy always give the same verdicts, so those of a record can be had again from it.

    Args:
        evidence: What was found and measured.
        policy: The limits, and how intervals are drawn.
        checks: Ids of the checks to judge; by default those that the policy runs.

    Returns:
        One verdict per check, built-in ones in the order of `CHECKS`, then extra ones.

    Raises:
        PolicyError: If there is no check of an id.
    """
    extra = {check.info.id: check for check in find_extra_checks()}
    known = {**{check.id: check for check in CHECKS}, **{name: check.info for name, check in extra.items()}}
    wanted = {name for name in known if _is_enabled(name, policy)} if checks is None else set(checks)
    for name in sorted(wanted - set(known)):
        near = get_close_matches(name, known, 1)
        remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
        raise PolicyError(f"check {name!r}", "there is no such check", remedy)
    return tuple(
        _judge(Case(info, evidence, policy), extra.get(name)) for name, info in known.items() if name in wanted
    )


def _is_enabled(check: str, policy: Policy) -> bool:
    """Whether the policy runs a check; extra ones have no switch there."""
    return check not in RULES or policy.checks.of(check).enabled


def _judge(case: Case, extra: ExtraCheck | None) -> Verdict:
    if case.check.needs_super_weight and not case.located:
        location = case.evidence.location
        return case.skip(f"No super weight was located (outcome {location.outcome}): {location.because}.")
    return RULES[case.check.id](case) if extra is None else extra.rule(case.evidence, case.policy)
