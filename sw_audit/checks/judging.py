"""From what was measured on a model, and a policy, to verdicts; nothing is measured here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from difflib import get_close_matches

from sw_audit.checks.context import CheckContext, StaticContext
from sw_audit.checks.registry import Check, Need, Scope, find_checks
from sw_audit.checks.unreached import tell_unreached
from sw_audit.checks.waivers import apply_waivers
from sw_audit.checks.weights_intact import weights_intact
from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import Level
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Status, Verdict

__all__ = ["judge_failure", "judge_result", "judge_verdicts", "list_checks"]

_RUN_AGAIN = "Run again: unless the cache is off, it goes on from what was measured."


def list_checks(policy: Policy, model: ModelPolicy | None = None) -> tuple[Check, ...]:
    """Return the checks that the policy runs: the built-in ones it has enabled, then those of other packages.

    Args:
        policy: The policy.
        model: One of its models: a descendant is held beside its parent, any other is taken by itself; by default
            what any of them is asked.
    """
    models = policy.models if model is None else (model,)
    scopes: set[Scope] = {"descendant" if one.parent else "model" for one in models} or {"model"}
    return _list_checks(policy, scopes, in_engine=any(one.in_engine for one in models))


def judge_result(
    result: ModelResult, policy: Policy, checks: Collection[str] | None = None
) -> tuple[Verdict, ...]:
    """Judge what was found and measured on one model.

    The same measurements and policy always give the same verdicts, so those of a record can be had again from it.
    What was measured in steps is looked at step by step: a verdict is the first that more of the text or of the
    items could not change, by intervals that hold at all looks together, else that of the last look.

    Args:
        result: What was found and measured.
        policy: The limits, and how intervals are drawn.
        checks: Ids of the checks to judge; by default those that the policy runs on this model. One that is about
            something this model has not, such as a parent, is skipped with that reason.

    Returns:
        One verdict per check, in the order of the checks.

    Raises:
        PolicyError: If there is no check of an id.
    """
    known = find_checks()
    selected = _choose_checks(result, policy) if checks is None else set(checks)
    for name in sorted(selected - set(known)):
        near = get_close_matches(name, known, 1)
        remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(known)}"
        raise PolicyError(f"check {name!r}", "there is no such check", remedy)
    verdicts: dict[str, Verdict] = {}
    for look in range(looks := result.planned_looks):
        known_then = result.at_look(look) if looks > 1 else result
        for name in known:
            if name in selected and (name not in verdicts or verdicts[name].undecided):
                context = CheckContext(known[name], known_then, policy, look, looks, result.item_looks)
                verdicts[name] = _judge(context)
    concluded = (_tell_stopped(verdicts[name], result.stopped) for name in known if name in verdicts)
    return tuple(set_level(tell_unreached(verdict, result), policy) for verdict in concluded)


def _tell_stopped(verdict: Verdict, stopped: str | None) -> Verdict:
    """Return a verdict that says why it is undecided, where the run ended before more was measured."""
    if stopped is None or not verdict.undecided:
        return verdict
    because = f"{verdict.because} It was not measured further, for {stopped}."
    return verdict.model_copy(update={"because": because, "remedy": _RUN_AGAIN})


def judge_verdicts(
    model: ModelResult | ModelFailure, policy: Policy, checks: Sequence[str], today: date
) -> tuple[Verdict, ...]:
    """Judge a model, measured or not, and put the policy's waivers on it as they hold on a day, by UTC.

    Raises:
        PolicyError: If there is no check of an id.
    """
    verdicts = (
        tuple(set_level(verdict, policy) for verdict in judge_failure(model, policy, checks))
        if isinstance(model, ModelFailure)
        else judge_result(model, policy, checks)
    )
    return apply_waivers(verdicts, policy.waivers, today)


def judge_failure(failure: ModelFailure, policy: Policy, checks: Sequence[str]) -> tuple[Verdict, ...]:
    """Judge a model that was not measured.

    Where its files are why, the static checks are judged by them. If one fails, the others are skipped; if none
    does, or none is selected, nothing can be said of what the others ask, and they are inconclusive: a broken
    model passes nothing. Where the run ended before, everything is inconclusive.

    Args:
        failure: Why it was not.
        policy: The limits.
        checks: Ids of the checks that the policy runs on it.

    Returns:
        One verdict per check, in their order; none where something else is why.
    """
    known = find_checks()
    if failure.stopped is not None:
        return tuple(
            _conclude_unmeasured(failure, known[name], f"It was not measured, for {failure.stopped}.", _RUN_AGAIN)
            for name in checks
        )
    if failure.weights is None:
        return ()
    static = {
        name: known[name].rule(StaticContext(known[name], failure, policy))
        for name in checks
        if known[name].static
    }
    explained = any(verdict.status is Status.FAIL for verdict in static.values())
    if explained:  # what was not looked at then needs no other look
        static = {name: one for name, one in static.items() if one.status is not Status.INCONCLUSIVE}
    because = "The weights are not intact, so the model was not opened."
    if failure.weights.intact:
        because = f"It could not be measured beside its parent: {failure.message}."
    remedy = None if explained else f"Select a check that reads files, such as `{weights_intact.id}`."
    return tuple(
        static.get(name) or _conclude_unmeasured(failure, known[name], because, remedy) for name in checks
    )


def _conclude_unmeasured(failure: ModelFailure, check: Check, because: str, remedy: str | None) -> Verdict:
    """Conclude of a model that was not measured: inconclusive where there is something to do, else skipped."""
    return Verdict(
        check=check.id,
        model=failure.model,
        status=Status.SKIPPED if remedy is None else Status.INCONCLUSIVE,
        side=check.side,
        quantity=check.quantity,
        because=because,
        remedy=remedy,
    )


def set_level(verdict: Verdict, policy: Policy) -> Verdict:
    """Return a verdict of a known check with what the check is: a gate or a law, as the policy has it."""
    check = find_checks()[verdict.check]
    return verdict.model_copy(update={"level": find_level(check, policy), "known": check.known})


def find_level(check: Check, policy: Policy) -> Level:
    """Return whether a check is a gate or a law under a policy."""
    return policy.checks.of(check.id).level or ("gate" if policy.laws == "gate" else check.level)


def _list_checks(policy: Policy, scopes: Collection[Scope], *, in_engine: bool) -> tuple[Check, ...]:
    """Return the enabled checks of these scopes; the baseline's if there is one, those on engines only in one."""
    scopes = set(scopes)
    if policy.compare:
        scopes.add("baseline")
    if in_engine:
        scopes.add("engine")
    return tuple(
        check
        for check in find_checks().values()
        if any(map(check.is_about, scopes)) and policy.checks.of(check.id).enabled
    )


def _choose_checks(result: ModelResult, policy: Policy) -> set[str]:
    """Choose the checks for one model: by what it has beside it, else by what the policy says of it."""
    named = next((model for model in policy.models if model.id == result.model.id), None)
    descends = result.descent is not None or (named is not None and named.parent is not None)
    scopes: set[Scope] = {"descendant" if descends else "model"}
    return {check.id for check in _list_checks(policy, scopes, in_engine=result.engine is not None)}


def list_measured(policy: Policy, model: ModelPolicy) -> list[str]:
    """Return the ids of the checks that the policy runs on a model, but for those that nothing is measured for."""
    return [check.id for check in list_checks(policy, model) if is_measured(check, policy, model)]


def is_measured(check: Check, policy: Policy, model: ModelPolicy) -> bool:
    """Whether what a check asks is measured: neither effort nor engine leaves it out."""
    return not is_left_out(check, policy) and not (model.in_engine and check.looks_inside)


def is_left_out(check: Check, policy: Policy) -> bool:
    """Whether the policy's effort leaves a check unmeasured: under `quick` a law, and what needs a search."""
    return policy.effort == "quick" and (find_level(check, policy) == "law" or Need.CRITICAL in check.needs)


def _judge(context: CheckContext) -> Verdict:
    if is_left_out(context.check, context.policy):
        only = "only gates are" if find_level(context.check, context.policy) == "law" else "no scalars are tried"
        return context.skip(f'Not measured: under `effort = "quick"` {only}.')
    if (unmet := _find_unmet(context)) is not None:
        return unmet
    if context.check.needs_super_weight and not context.located:
        location = context.result.location
        return context.skip(f"No super weight was located (outcome {location.outcome}): {location.because}.")
    if context.check.static:
        return context.check.rule(StaticContext(context.check, context.result, context.policy))
    return context.check.rule(context)


def _find_unmet_in_engine(context: CheckContext) -> Verdict | None:
    """Skip what asks for a model in another program, or cannot be asked in one."""
    engine = context.result.engine
    if engine is None and context.check.scope == "engine":
        return context.skip("It runs in transformers; `engine` in its `[[model]]` table names another program.")
    if engine is not None and context.check.looks_inside:
        return context.skip(
            f"{engine.identity.engine} runs the model as it is: what has to change or watch something inside is "
            "measured without `engine`."
        )
    return None


def _find_unmet(context: CheckContext) -> Verdict | None:
    """Conclude where what the check is about is not there."""
    if (in_engine := _find_unmet_in_engine(context)) is not None:
        return in_engine
    result, again = context.result, "Run the audit again with this check selected."
    if context.check.reads_files and result.model.in_place:
        return context.skip(
            "The model was audited in place: what it asks is in files, and none are known to hold it."
        )
    named = next((model for model in context.policy.models if model.id == result.model.id), None)
    if context.check.is_about("descendant") and result.descent is None:
        if named is not None and named.parent is not None:
            because = f"It was not measured beside its parent, {named.parent}."
            return context.conclude(Status.INCONCLUSIVE, because, remedy=again)
        if not context.check.is_about("model"):
            return context.skip("This model has no parent (`parent` in its `[[model]]` table).")
    if context.check.scope == "baseline" and result.baseline is None:
        if context.policy.compare is None:
            return context.skip("There is no baseline to compare with (`compare` in the policy, or `--compare`).")
        because = f"It was not held against the baseline {context.policy.compare!r}."
        return context.conclude(Status.INCONCLUSIVE, because, remedy=again)
    if context.check.scope == "model" and result.descent is not None and not result.measurements:
        return context.skip("This model is held beside its parent; without `parent` it is taken by itself.")
    return None
