"""What a model's verdicts come to, which of them decides, and which of many models come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Status, Verdict, worst_status

FEW_MODELS = 8
"""How many models are told one by one; of more a table comes first, on the page and on the terminal."""

_WORST_FIRST = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS, Status.SKIPPED)


def group_by_protocol(models: Sequence[ModelResult | ModelFailure]) -> list[list[int]]:
    """Group models by their places, in order, so that figures of a group can stand in one table.

    Models of a group were measured under one protocol, whatever its text is called. Those that could not be
    audited are a group of their own, the last, unless there is one protocol at most.
    """
    groups: dict[str, list[int]] = {}
    failures = []
    for place, model in enumerate(models):
        if isinstance(model, ModelFailure):
            failures.append(place)
            continue
        protocol = model.protocol
        text = protocol.corpus.model_copy(update={"name": ""})
        groups.setdefault(protocol.model_copy(update={"corpus": text}).signature, []).append(place)
    if len(groups) < 2:
        return [list(range(len(models)))] if models else []
    return [*groups.values(), *([failures] if failures else [])]


def conclude_model(model: ModelResult | ModelFailure) -> Status:
    """Return the worst of a model's gates; a model that could not be audited fails.

    Where nothing was decided, by gates or else by laws, that is INCONCLUSIVE: it must not look like a pass. A
    waived verdict counts as nothing, and so does a model that could not be audited if one of its verdicts is
    waived.
    """
    if isinstance(model, ModelFailure) and not any(verdict.waiver for verdict in model.verdicts):
        return Status.FAIL
    counted = [verdict for verdict in model.verdicts if verdict.waiver is None]
    decided = any(verdict.status in (Status.PASS, Status.FAIL) for verdict in counted if verdict.level == "law")
    gates = [verdict.status for verdict in counted if verdict.level == "gate"]
    return conclude([*gates, *([Status.PASS] if decided else [])])


def conclude(statuses: Iterable[Status]) -> Status:
    """Return the worst status; where nothing was decided, INCONCLUSIVE."""
    status = worst_status(statuses)
    return Status.INCONCLUSIVE if status is Status.SKIPPED else status


def list_open(model: ModelResult | ModelFailure) -> list[Verdict]:
    """List the gates that keep a model from passing: those that fail, then those in doubt, none that is waived."""
    counted = [one for one in model.verdicts if one.level == "gate" and one.waiver is None]
    return [one for status in _WORST_FIRST[:2] for one in counted if one.status is status]


def find_deciding(model: ModelResult | ModelFailure) -> Verdict | None:
    """Find the gate that decides against a model: of the worst the first with figure and limit, else the first.

    `None` of one that passes, and of one that could not be audited before anything was judged.
    """
    listed = list_open(model)
    worst = [one for one in listed if one.status is listed[0].status]
    measured = (one for one in worst if one.observed is not None and one.limit is not None)
    return next(measured, worst[0] if worst else None)


def rank_worst_first(models: Sequence[ModelResult | ModelFailure]) -> list[int]:
    """Return the places of models, the worst first.

    Those that could not be audited come first, then those with the most failed gates, then those with the most
    doubts; alike ones stay in their order.
    """

    def weigh(place: int) -> tuple[int, bool, int, int]:
        model = models[place]
        counts = Counter(one.status for one in list_open(model))
        unmeasured = isinstance(model, ModelFailure)
        status = _WORST_FIRST.index(conclude_model(model))
        return status, not unmeasured, -counts[Status.FAIL], -counts[Status.INCONCLUSIVE]

    return sorted(range(len(models)), key=weigh)
