"""Whether a record is what was written, and whether its verdicts follow from what it holds.

1. Digests and form: any change of the record or of the page that carries it (`StoredRecord.list_doubts`).
2. Verdicts: each is judged again from the measurements and the policy, by the waivers of the day it was written.
3. Protocol: figures bear the signature of the protocol that the record names.
4. Records that were merged: each can be had again as it was, and is looked at by itself.

Somebody who changes a record and makes its digests anew is found by 2 and 3 where the parts contradict each other,
and by a signature in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from sw_audit import __version__
from sw_audit.checks.judging import judge_verdicts
from sw_audit.checks.registry import find_checks
from sw_audit.evidence.merge import restore_sources, verify_sources
from sw_audit.record.record import AuditedModel, Record
from sw_audit.record.store import Doubt, StoredRecord, one_line_nonsense, refuse_doubts
from sw_audit.record.verdict import Verdict

LAST_DIGITS = 1e-9
"""Relative difference of figures that are the same: those of another version of scipy may differ by so much."""


def verify_record(stored: StoredRecord, named: str) -> list[Doubt]:
    """Name everything in which a record is not what was written, or contradicts itself; nothing outside is read.

    Raises:
        RecordError: If its facts do not fit together at all.
    """
    doubts = stored.list_doubts()
    with one_line_nonsense(f"record {named}"):
        for place, part in _list_audits(stored.record):
            found = [*verify_protocols(part), *verify_verdicts(part)]
            doubts += [replace(doubt, where=f"{place}{doubt.where}") for doubt in found]
        doubts += verify_sources(stored.record)
    return doubts


def _list_audits(record: Record) -> list[tuple[str, Record]]:
    """List the record of each audit as it was, and what stands before the places in it."""
    if not record.sources:
        return [("", record)]
    return [(f"sources[{place}].", original) for place, original in enumerate(restore_sources(record))]


def require_verified(stored: StoredRecord, named: str, *, unverified: bool) -> Record:
    """Return a record that verifies, or any if `unverified`.

    Raises:
        RecordError: If it does not verify.
    """
    if not unverified:
        refuse_doubts(named, verify_record(stored, named))
    return stored.record


def verify_verdicts(record: Record) -> list[Doubt]:
    """Judge every model again, and name each verdict that does not follow.

    A verdict of a check that is not installed here, or of another version of sw-audit, may differ for that reason:
    then it cannot be told.
    """
    day = _find_day(record.created)
    return [doubt for model in record.models for doubt in _verify_model(record, model, day)]


def _verify_model(record: Record, model: AuditedModel, day: date) -> Iterator[Doubt]:
    known, place = find_checks(), f"models[{model.id}].verdicts"
    judged = [verdict.check for verdict in model.verdicts]
    for check in sorted(set(judged) - set(known)):
        yield Doubt(f"{place}[{check}]", "the check is not installed here", open=True)
    names = [check for check in known if check in judged]
    again = {verdict.check: verdict for verdict in judge_verdicts(model, record.policy, names, day)}
    for verdict in model.verdicts:
        if verdict.check in known and (found := _compare(verdict, again.get(verdict.check))):
            foreign = record.tool.version != __version__
            other = f" (it was judged by {record.tool.version}, and this is {__version__})" if foreign else ""
            yield Doubt(f"{place}[{verdict.check}]", f"{found}{other}", open=foreign)


def _compare(stored: Verdict, again: Verdict | None) -> str | None:
    """Say in what a verdict is not the one that follows."""
    if again is None:
        return "it does not follow from what was measured"
    before, after = stored.model_dump(mode="json"), again.model_dump(mode="json")
    keys = [key for key in before if not _is_same(before[key], after[key])]
    return "; ".join(_tell(key, before[key], after[key]) for key in keys[:2]) or None


def _tell(key: str, before: object, after: object) -> str:
    plain = all(isinstance(value, str | float | int | None) for value in (before, after))
    return f"{key} is {before}, and {after} follows" if plain else f"{key} is not what follows"


def _is_same(before: Any, after: Any) -> bool:
    """Whether two values are the same, whatever they are made of."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=LAST_DIGITS)
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_is_same(before[key], after[key]) for key in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_is_same, before, after))
    return bool(before == after)


def verify_protocols(record: Record) -> Iterator[Doubt]:
    """Name figures that bear another signature than the protocol beside them."""
    for result in record.results:
        measured = [("measurements", one, result.protocol.signature) for one in result.measurements]
        if result.descent is not None:
            measured += [
                ("descent", one, text.protocol.signature)
                for text in result.descent.texts
                for one in text.measurements
            ]
        for field, one, signature in measured:
            if one.protocol != signature:
                place = f"models[{result.id}].{field}[{one.arm.name}]"
                yield Doubt(
                    place, f"its figures are of protocol {one.protocol}, and {signature} stands beside them"
                )


def _find_day(created: str) -> date:
    return datetime.fromisoformat(created).astimezone(UTC).date()
