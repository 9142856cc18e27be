"""A record held beside what laws and standards expect: what speaks to it, and what is not shown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from sw_audit.record.record import ModelResult, Record
from sw_audit.record.store import make_document
from sw_audit_reports.annex_facts import Statement
from sw_audit_reports.elements import Badge, Cell, Words, make_cells, split_code
from sw_audit_reports.expectations import EXPECTATIONS
from sw_audit_reports.opening import describe_audited, summarize_worst
from sw_audit_reports.sections import Context, summarize_model
from sw_audit_reports.text import count
from sw_audit_reports.verdicts import conclude_record


@dataclass(frozen=True)
class Row:
    """One expectation, with what the record says of it as sentences.

    Attributes:
        place: Where it stands.
        title: Its words.
        shown: What speaks to it.
        missing: What is not shown of it.
    """

    place: str
    title: str
    shown: tuple[tuple[Cell, ...], ...]
    missing: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Annex:
    """A record held beside what laws and standards expect.

    Attributes:
        heading: What was audited, in a few words.
        audited: What was audited, in a sentence.
        badge: The verdict.
        sentence: The sentence that matters.
        sources: The rows of each law or standard.
        digest: The record's sha256.
        created: When the record was written.
    """

    heading: str
    audited: tuple[Cell, ...]
    badge: Badge
    sentence: tuple[Cell, ...]
    sources: tuple[tuple[str, tuple[Row, ...]], ...]
    digest: str
    created: str


def build_annex(record: Record) -> Annex:
    """Hold a record beside the table of expectations."""
    said: dict[Statement, tuple[tuple[Cell, ...], ...]] = {}

    def say(statements: tuple[Statement, ...]) -> tuple[tuple[Cell, ...], ...]:
        for one in statements:
            said.setdefault(one, tuple(split_code(sentence) for sentence in one(record)))
        return tuple(sentence for one in statements for sentence in said[one])

    sources = tuple(
        (source, tuple(Row(one.place, one.title, say(one.shown), say(one.missing)) for one in rows))
        for source, rows in groupby(EXPECTATIONS, key=attrgetter("source"))
    )
    single = len(record.models) == 1
    return Annex(
        heading=record.models[0].id if single else count(len(record.models), "model"),
        audited=describe_audited(record),
        badge=Badge.of(conclude_record(record)),
        sentence=make_cells(_summarize(record)),
        sources=sources,
        digest=make_document(record)["digest"]["sha256"],
        created=record.created,
    )


def _summarize(record: Record) -> Words:
    if len(record.models) == 1 and isinstance(record.models[0], ModelResult):
        return summarize_model(Context(record.parts[0], record.models[0], "")) or summarize_worst(record)
    return summarize_worst(record)
