from __future__ import annotations

import json

from support.evidence import make_record
from sw_audit_reports.intoto import render_intoto

from sw_audit.record.rendering import render_record
from sw_audit.record.statement import make_statement


def test_the_statement_is_written_as_it_is_signed() -> None:
    record = make_record(windows=8, items=8)
    text = render_intoto(record)
    assert text == json.dumps(make_statement(record), sort_keys=True, separators=(",", ":"))
    assert render_record(record, "intoto") == text
