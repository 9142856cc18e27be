"""What changed from one record to another, and what of it is worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sw_audit.checks.super_activation_unmoved import SuperActivationUnmovedLimits
from sw_audit.checks.super_weight_unmoved import SuperWeightUnmovedLimits
from sw_audit.record.identity import compare_protocols
from sw_audit.record.labels import label_status
from sw_audit.record.location import SuperActivation, SuperWeight
from sw_audit.record.record import AuditedModel, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict

_RANKS = {Status.PASS: 0, Status.SKIPPED: 1, Status.INCONCLUSIVE: 2, Status.FAIL: 3}


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was.

    Attributes:
        model: Id of the model, in the later record where it has one.
        what: What changed, such as a check or `super weight layer 1 [5, 7]`.
        before: How it was; `None` if it was not there.
        after: How it is; `None` if it is not there any more.
        worse: Whether that is worse, or better; `None` where it is neither.
    """

    model: str
    what: str
    before: str | None
    after: str | None
    worse: bool | None = None


def compare_records(before: Record, after: Record) -> tuple[Change, ...]:
    """List what changed: models, weights, protocol, limits, super weights and activations, verdicts.

    Models are paired by id; where both records hold one model, these two are. What only the later record judges
    is told and is not worse, nor is a law that holds no more; a gate's verdict that did not pass and is gone is
    worse, for nothing says that it passes now. Files, policy, program, environment and date are told. A live
    waiver counts as a pass. How far super weights and activations may move is what the later record's policy
    says.
    """
    pairs = pair_models(before, after)
    audits = _pair_audits(before, after, pairs)
    told = [[*_compare_policies(*audit), *_compare_circumstances(*audit)] for audit in audits]
    changes = list(dict.fromkeys(change for audit in told for change in audit))
    for old, new in pairs:
        changes += _compare_results(before.find_model(old), after.find_model(new), after.find_part(new))
    there, renamed = {model.id: model for model in after.models}, dict(pairs)
    for model in before.models:
        changes += _compare_verdicts(model, there.get(renamed.get(model.id, model.id)))
    kept_old, kept_new = {old for old, _ in pairs}, {new for _, new in pairs}
    was_broken = {failure.model: failure.message for failure in before.failures}
    audited = {model.id for model in before.results}
    for failure in after.failures:
        was = was_broken.get(failure.model, "audited" if failure.model in audited else None)
        if was != failure.message:
            worse = None if failure.model in was_broken else True
            changes.append(Change(failure.model, "model", was, failure.message, worse))
    broken = {failure.model for failure in after.failures}
    changes += [
        Change(model.id, "model", "audited", None)
        for model in before.results
        if model.id not in kept_old and model.id not in broken
    ]
    changes += [
        Change(model.id, "model", None, "audited", False if model.id in was_broken else None)
        for model in after.results
        if model.id not in kept_new
    ]
    return tuple(changes)


def pair_models(before: Record, after: Record) -> tuple[tuple[str, str], ...]:
    """Pair the models of two records by id, or the only ones that both hold."""
    old, new = [model.id for model in before.results], [model.id for model in after.results]
    if len(old) == len(new) == 1 and not before.failures and not after.failures:
        return ((old[0], new[0]),)
    return tuple((name, name) for name in old if name in new)


def _pair_audits(before: Record, after: Record, pairs: Sequence[tuple[str, str]]) -> list[tuple[Record, Record]]:
    """Pair the audits that paired models come from; what is no merged record is one audit."""
    places = [
        {model.id: place for place, part in enumerate(record.parts) for model in part.models}
        for record in (before, after)
    ]
    kept = dict.fromkeys((places[0][old], places[1][new]) for old, new in pairs) or {(0, 0): None}
    return [(before.parts[then], after.parts[now]) for then, now in kept]


def _compare_policies(before: Record, after: Record) -> Iterator[Change]:
    then, now = (record.policy.model_dump(mode="json", by_alias=True) for record in (before, after))
    yield from _compare_tables("limit ", then.pop("checks"), now.pop("checks"))
    for policy in (then, now):  # where models lie says nothing of them, their digests do
        for model in policy["model"]:
            del model["source"]
        policy["model"] = {model.pop("id"): model for model in policy["model"]}
    if len(then["model"]) == len(now["model"]) == 1:
        then["model"], now["model"] = ({"": model} for policy in (then, now) for model in policy["model"].values())
    yield from _compare_tables("policy ", then, now)


def _compare_circumstances(before: Record, after: Record) -> Iterator[Change]:
    then, now = (
        {"version of the program": f"{record.tool.name} {record.tool.version}", "date": record.created}
        | {"environment": record.environment.model_dump(mode="json")}
        for record in (before, after)
    )
    yield from _compare_tables("", then, now)


def _compare_tables(prefix: str, then: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    old, new = dict(_flatten(then)), dict(_flatten(now))
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield Change("*", f"{prefix}{key}", str(old.get(key)), str(new.get(key)))


def _flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def _compare_results(old: ModelResult, new: ModelResult, after: Record) -> Iterator[Change]:
    name = new.model.id
    if old.model.digest != new.model.digest:
        yield Change(
            name, "weights", old.model.digest[:12] or "not digested", new.model.digest[:12] or "not digested"
        )
    files, others = ({file.path: file.sha256 for file in one.model.files} for one in (old, new))
    for path in dict.fromkeys((*files, *others)):
        digests = files.get(path), others.get(path)
        if digests[0] != digests[1]:
            before, now_here = (digest and digest[:12] for digest in digests)
            yield Change(name, f"file {path}", before, now_here)
    if old.protocol.signature != new.protocol.signature:
        words = compare_protocols(old.protocol, new.protocol)
        yield Change(name, f"protocol ({words})", old.protocol.signature, new.protocol.signature)
    if old.location.outcome is not new.location.outcome:
        yield Change(name, "outcome of locating", str(old.location.outcome), str(new.location.outcome))
    limits = after.policy.checks
    drift, ratios = limits[SuperWeightUnmovedLimits].maximum_drift, limits[SuperActivationUnmovedLimits]
    then = {_name_weight(weight): weight for weight in old.location.super_weights}
    now = {_name_weight(weight): weight for weight in new.location.super_weights}
    yield from _compare_values(name, then, now, lambda was, here: abs(here - was) <= drift * abs(was))
    low, high = ratios.minimum_ratio, ratios.maximum_ratio
    loud = {_name_activation(activation): activation for activation in old.location.super_activations}
    here = {_name_activation(activation): activation for activation in new.location.super_activations}
    yield from _compare_values(name, loud, here, lambda was, here: low <= abs(here / was) <= high)


def _name_weight(weight: SuperWeight) -> str:
    expert = "" if weight.expert is None else f"expert {weight.expert}, "
    return f"super weight layer {weight.layer} [{expert}{weight.row}, {weight.column}]"


def _name_activation(activation: SuperActivation) -> str:
    return f"super activation channel {activation.channel}, token {activation.token}"


def _compare_values(
    model: str,
    then: Mapping[str, SuperWeight | SuperActivation],
    now: Mapping[str, SuperWeight | SuperActivation],
    near: Callable[[float, float], bool],
) -> Iterator[Change]:
    """Yield what is lost (worse), what is new, and what moved (worse where it is not near, or of another sign)."""
    for what in dict.fromkeys((*then, *now)):
        was, here = then.get(what), now.get(what)
        if was is None or here is None:
            before, after = (None if scalar is None else f"{scalar.value:.6g}" for scalar in (was, here))
            yield Change(model, what, before, after, True if here is None else None)
        elif was.value != here.value:
            kept = was.value * here.value > 0 and near(was.value, here.value)
            times = f"{here.value:.6g}, times {here.value / was.value:.4g}" if was.value else f"{here.value:.6g}"
            yield Change(model, what, f"{was.value:.6g}", times, None if kept else True)


def _compare_verdicts(old: AuditedModel, new: AuditedModel | None) -> Iterator[Change]:
    then = {verdict.check: verdict for verdict in old.verdicts}
    now = {verdict.check: verdict for verdict in (() if new is None else new.verdicts)}
    for check in dict.fromkeys((*then, *now)):
        was, here = then.get(check), now.get(check)
        before_it, after_it = (None if verdict is None else _tell(verdict) for verdict in (was, here))
        if before_it == after_it:
            continue
        ranks = [None if verdict is None else _rank(verdict) for verdict in (was, here)]
        worse = None
        gates = here is not None and here.level == "gate"
        if gates and ranks[0] is not None and ranks[1] is not None and ranks[0] != ranks[1]:
            worse = ranks[1] > ranks[0]
        elif here is None and was is not None and was.level == "gate" and (ranks[0] or 0) > 1:
            worse = True
        elif new is None:  # that a model is gone is told once
            continue
        yield Change(old.id if new is None else new.id, f"check {check}", before_it, after_it, worse)


def _rank(verdict: Verdict) -> int:
    return 0 if verdict.waiver is not None else _RANKS[verdict.status]


def _tell(verdict: Verdict) -> str:
    waived = " (waived)" if verdict.waiver is not None else ""
    figure = "" if verdict.observed is None else f" {verdict.observed:.6g}"
    return f"{label_status(verdict).upper()}{waived}{figure}"
