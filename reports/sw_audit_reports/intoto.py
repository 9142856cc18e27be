"""The in-toto statement of a record, unsigned: `sw-audit sign` signs the same."""

from __future__ import annotations

from sw_audit.record.digest import write_canonical
from sw_audit.record.record import Record
from sw_audit.record.statement import make_statement


def render_intoto(record: Record) -> str:
    """Write a record's statement as canonical JSON, without a line end, as it is signed."""
    return write_canonical(make_statement(record))
