"""Several records as one, from which each can be had again as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sw_audit import __version__
from sw_audit.errors import RecordError
from sw_audit.policy.model_policy import ModelPolicy, Waiver
from sw_audit.record.identity import Tool
from sw_audit.record.record import CIRCUMSTANCES, AuditedModel, ModelFailure, Record, RecordSource
from sw_audit.record.redaction import add_redactions
from sw_audit.record.store import Doubt, make_document
from sw_audit.record.verdict import Verdict

_MARK = "@"


class Given(NamedTuple):
    """A record to merge.

    Attributes:
        record: The record.
        named: What it was called by, for complaints.
        name: What is put after `@` to the ids of its models; empty if nothing is.
        verified: Whether it verifies.
    """

    record: Record
    named: str
    name: str = ""
    verified: bool = True


def merge_records(given: Sequence[Given]) -> Record:
    """Put the models of several records into one, in order; those that were merged before are taken apart first.

    Merging is associative: what is merged in two steps is what is merged in one.

    Raises:
        RecordError: If two models have one id, a name cannot be put to an id, or nothing is given.
    """
    sources: list[RecordSource] = []
    parts: list[Record] = []
    seen: dict[str, str] = {}
    for one in given:
        for source, original in _take_apart(one):
            part = _rename(original, source.name, one.named)
            for model in part.models:
                if model.id in seen:
                    found = f"its model {model.id!r} is also in {seen[model.id]}"
                    remedy = f"give one of them a name, as in other={one.named}, which makes it {model.id}@other"
                    raise RecordError(f"record {one.named}", found, remedy)
                seen[model.id] = one.named
            kept = {key: getattr(part, key) for key in CIRCUMSTANCES}
            ids = tuple(model.id for model in part.models)
            sources.append(source.model_copy(update={**kept, "models": ids}))
            parts.append(part)
    if not parts:
        raise RecordError("records to merge", "none is given", "name them")
    return parts[0].model_copy(
        update={
            "tool": Tool(version=__version__),
            "created": max(part.created for part in parts),
            "origin": None,
            "models": tuple(model for part in parts for model in part.models),
            "redacted": add_redactions(*(part.redacted for part in parts)),
            "sources": tuple(sources),
        }
    )


def restore_sources(record: Record) -> list[Record]:
    """Return the records that were merged, as they were."""
    return [
        _exchange(part, {new: new.removesuffix(f"{_MARK}{source.name}") for new in _list_ids(part)})
        if source.name
        else part
        for source, part in zip(record.sources, record.parts, strict=True)
    ]


def select_models(record: Record, ids: Sequence[str]) -> Record:
    """Return the record of some of its models, in the order of the record."""
    if not record.sources:
        return record.model_copy(update={"models": tuple(one for one in record.models if one.id in ids)})
    given = []
    for source, original in zip(record.sources, restore_sources(record), strict=True):
        kept = [one for one, new in zip(original.models, source.models, strict=True) if new in ids]
        if kept:
            chosen = original.model_copy(update={"models": tuple(kept)})
            given.append(Given(chosen, "record", source.name, source.verified))
    return merge_records(given)


def verify_sources(record: Record) -> Iterator[Doubt]:
    """Name the records that were merged which are not what they were, and what else does not follow from them."""
    if not record.sources:
        return
    originals = restore_sources(record)
    given = []
    for place, (source, original) in enumerate(zip(record.sources, originals, strict=True)):
        if not source.verified:
            yield Doubt(f"sources[{place}]", "it did not verify when it was merged", open=True)
        if digest_record(original) != source.sha256:
            yield Doubt(f"sources[{place}]", "the record that was merged is not what its digest was made of")
        given.append(Given(original, f"sources[{place}]", source.name))
    again = merge_records(given).model_copy(update={"tool": record.tool, "sources": record.sources})
    if again != record:
        yield Doubt("record", "it is not what the records that were merged come to")


def digest_record(record: Record) -> str:
    """Return the sha256 of a record, 64 hex digits, as its key `digest` has it."""
    return str(make_document(record)["digest"]["sha256"])


def _take_apart(given: Given) -> Iterator[tuple[RecordSource, Record]]:
    """List the records that one is made of, as they were, with what is kept of each."""
    if not given.record.sources:
        yield _describe(given.record, given.name, verified=given.verified), given.record
        return
    for source, original in zip(given.record.sources, restore_sources(given.record), strict=True):
        name = _MARK.join(filter(None, (source.name, given.name)))
        yield source.model_copy(update={"name": name, "verified": source.verified and given.verified}), original


def _describe(record: Record, name: str, *, verified: bool) -> RecordSource:
    kept = {key: getattr(record, key) for key in CIRCUMSTANCES}
    sha256, ids = digest_record(record), tuple(model.id for model in record.models)
    return RecordSource(name=name, sha256=sha256, verified=verified, models=ids, **kept)


def _rename(record: Record, name: str, named: str) -> Record:
    """Put a name to every id.

    Raises:
        RecordError: If an id cannot have it, or the record could not be told from another then.
    """
    if not name:
        return record
    changed = {old: f"{old}{_MARK}{name}" for old in _list_ids(record)}
    try:
        for new in changed.values():
            ModelPolicy(source="model", id=new)
    except ValueError as error:
        remedy = "use a short name without brackets, colons, slashes and outer spaces"
        raise RecordError(f"name {name!r} of record {named}", "no id of a model can have it", remedy) from error
    renamed = _exchange(record, changed)
    if _exchange(renamed, {new: old for old, new in changed.items()}) != record:
        found = "something is called so already"
        raise RecordError(f"name {name!r} of record {named}", found, "choose another name")
    return renamed


def _list_ids(record: Record) -> list[str]:
    return list(dict.fromkeys(one.id for one in (*record.policy.models, *record.models)))


def _exchange(record: Record, ids: Mapping[str, str]) -> Record:
    """Return a record under other ids, wherever one stands for a model of it; sentences are left as they are."""

    def change(old: str | None) -> str | None:
        return ids.get(old, old) if old is not None else None

    def change_waiver(waiver: Waiver) -> Waiver:
        return waiver.model_copy(update={"model": change(waiver.model)})

    def change_verdict(verdict: Verdict) -> Verdict:
        waiver = None if verdict.waiver is None else change_waiver(verdict.waiver)
        return verdict.model_copy(update={"model": change(verdict.model), "waiver": waiver})

    def change_model(model: AuditedModel) -> AuditedModel:
        verdicts = tuple(map(change_verdict, model.verdicts))
        if isinstance(model, ModelFailure):
            return model.model_copy(update={"model": change(model.model), "verdicts": verdicts})
        identity = model.model.model_copy(update={"id": change(model.id)})
        descent = model.descent
        if descent is not None:
            parent = descent.parent.model_copy(update={"id": change(descent.parent.id)})
            descent = descent.model_copy(update={"parent": parent})
        return model.model_copy(update={"model": identity, "descent": descent, "verdicts": verdicts})

    asked = tuple(
        one.model_copy(update={"id": change(one.id), "parent": change(one.parent)}) for one in record.policy.models
    )
    waivers = tuple(map(change_waiver, record.policy.waivers))
    origin = record.origin
    if origin is not None:
        origin = origin.model_copy(
            update={"models": {ids.get(old, old): line for old, line in origin.models.items()}}
        )
    return record.model_copy(
        update={
            "policy": record.policy.model_copy(update={"models": asked, "waivers": waivers}),
            "origin": origin,
            "models": tuple(map(change_model, record.models)),
        }
    )
