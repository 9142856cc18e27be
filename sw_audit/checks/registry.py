"""The bench: every check's rule, and the way from evidence and policy to verdicts."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from sw_audit.checks.activations import judge_activation_quality, judge_gap
from sw_audit.checks.baseline import judge_not_worse, judge_unmoved_activations, judge_unmoved_weights
from sw_audit.checks.confirmation import judge_dose, judge_rank
from sw_audit.checks.context import CheckContext, Rule
from sw_audit.checks.continuations import judge_generation
from sw_audit.checks.descent import judge_drift_to_stopwords, judge_perplexity
from sw_audit.checks.divergence import judge_agreement, judge_divergence
from sw_audit.checks.extra import ExtraCheck, find_extra_checks
from sw_audit.checks.info import CHECKS, CheckInfo, Scope
from sw_audit.checks.layers import judge_layer_error, judge_range
from sw_audit.checks.location import judge_location
from sw_audit.checks.persistence import judge_persistence
from sw_audit.checks.pruning import judge_collapse, judge_healing, judge_others, judge_placebos
from sw_audit.checks.published import judge_published
from sw_audit.checks.retention import judge_retained_activations, judge_retained_weights
from sw_audit.checks.rounding import judge_gain, judge_quality
from sw_audit.checks.tasks import judge_tasks
from sw_audit.checks.text import judge_accuracy, judge_stopwords
from sw_audit.checks.weights import judge_configured, judge_weights
from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict

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
    "weights-intact": judge_weights,
    "quantization-as-configured": judge_configured,
    "super-weight-retained": judge_retained_weights,
    "super-activation-retained": judge_retained_activations,
    "perplexity-ratio": judge_perplexity,
    "kl-divergence": judge_divergence,
    "top1-agreement": judge_agreement,
    "generation-sane": judge_generation,
    "stopwords-not-raised": judge_drift_to_stopwords,
    "task-accuracy": judge_tasks,
    "layer-error": judge_layer_error,
    "range-fits-dtype": judge_range,
    "super-weight-unmoved": judge_unmoved_weights,
    "super-activation-unmoved": judge_unmoved_activations,
    "quality-not-worse": judge_not_worse,
}


def list_checks(policy: Policy, model: ModelPolicy | None = None) -> tuple[CheckInfo, ...]:
    """Return the checks that the policy runs: the built-in ones it has enabled, then the extra ones.

    Args:
        policy: The policy.
        model: One of its models: a descendant is held beside its parent, any other is taken by itself; by default
            what any of them is asked.
    """
    models = policy.models if model is None else (model,)
    scopes: set[Scope] = {"descendant" if one.parent else "model" for one in models} or {"model"}
    return _list_checks(policy, scopes) + tuple(check.info for check in find_extra_checks())


def judge_evidence(
    evidence: ModelResult, policy: Policy, checks: Collection[str] | None = None
) -> tuple[Verdict, ...]:
    """Judge what was found and measured on one model.

    The same evidence and policy always give the same verdicts, so those of a record can be had again from it.

    Args:
        evidence: What was found and measured.
        policy: The limits, and how intervals are drawn.
        checks: Ids of the checks to judge; by default those that the policy runs on this model. One that is about
            something this model has not, such as a parent, is skipped with that reason.

    Returns:
        One verdict per check, built-in ones in the order of `CHECKS`, then extra ones.

    Raises:
        PolicyError: If there is no check of an id.
    """
    extra = {check.info.id: check for check in find_extra_checks()}
    known = {**{check.id: check for check in CHECKS}, **{name: check.info for name, check in extra.items()}}
    wanted = _choose_checks(evidence, policy) | set(extra) if checks is None else set(checks)
    for name in sorted(wanted - set(known)):
        near = get_close_matches(name, known, 1)
        remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
        raise PolicyError(f"check {name!r}", "there is no such check", remedy)
    return tuple(
        _judge(CheckContext(info, evidence, policy), extra.get(name))
        for name, info in known.items()
        if name in wanted
    )


def _list_checks(policy: Policy, scopes: Collection[Scope]) -> tuple[CheckInfo, ...]:
    """Return the built-in checks that are enabled, of these scopes; and of the baseline's, if there is one."""
    wanted = {*scopes, "baseline"} if policy.compare else {*scopes}
    return tuple(check for check in CHECKS if check.scope in wanted and policy.checks.of(check.id).enabled)


def _choose_checks(evidence: ModelResult, policy: Policy) -> set[str]:
    """Choose the built-in checks for one model: by what it has beside it, else by what the policy says of it."""
    named = next((one for one in policy.models if one.id == evidence.model.id), None)
    descends = evidence.descent is not None or (named is not None and named.parent is not None)
    return {check.id for check in _list_checks(policy, {"descendant" if descends else "model"})}


def _judge(case: CheckContext, extra: ExtraCheck | None) -> Verdict:
    if (unmet := _find_unmet(case)) is not None:
        return unmet
    if case.check.needs_super_weight and not case.located:
        location = case.evidence.location
        return case.skip(f"No super weight was located (outcome {location.outcome}): {location.because}.")
    return RULES[case.check.id](case) if extra is None else extra.rule(case.evidence, case.policy)


def _find_unmet(case: CheckContext) -> Verdict | None:
    """Conclude the case where what the check is about is not there."""
    evidence, again = case.evidence, "Run the audit again with this check selected."
    named = next((one for one in case.policy.models if one.id == evidence.model.id), None)
    if case.check.scope == "descendant" and evidence.descent is None:
        if named is None or named.parent is None:
            return case.skip("This model has no parent (`parent` in its `[[model]]` table).")
        because = f"It was not measured beside its parent, {named.parent}."
        return case.conclude(Status.INCONCLUSIVE, because, remedy=again)
    if case.check.scope == "baseline" and evidence.baseline is None:
        if case.policy.compare is None:
            return case.skip("There is no baseline to compare with (`compare` in the policy, or `--compare`).")
        because = f"It was not held against the baseline {case.policy.compare!r}."
        return case.conclude(Status.INCONCLUSIVE, because, remedy=again)
    if case.check.scope == "model" and evidence.descent is not None and not evidence.measurements:
        return case.skip("This model is held beside its parent; without `parent` it is taken by itself.")
    return None
