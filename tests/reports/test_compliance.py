from __future__ import annotations

from support.evidence import compose, make_evidence, make_record
from support.many import make_many
from sw_audit_reports.compliance import build_annex
from sw_audit_reports.expectations import EU, EXPECTATIONS, ISO, NIST


def test_every_expectation_is_a_row_under_its_source() -> None:
    annex = build_annex(make_record())
    assert [source for source, _ in annex.sources] == [EU, NIST, ISO]
    assert [row.place for _, rows in annex.sources for row in rows] == [one.place for one in EXPECTATIONS]
    assert all(row.missing for _, rows in annex.sources for row in rows)


def test_the_digest_is_that_of_the_record_and_of_no_other() -> None:
    record = make_record()
    digest = build_annex(record).digest
    assert len(digest) == 64
    assert build_annex(record.model_copy(update={"created": "2026-01-02T03:04:06+00:00"})).digest != digest
    assert build_annex(record).digest == digest


def test_the_top_is_about_one_model_or_about_all_of_them() -> None:
    assert build_annex(compose(make_evidence(windows=4, items=4))).heading == "specimen"
    many = build_annex(make_many())
    assert many.heading == "10 models"
    assert many.badge.word == "Fail"
    assert many.sentence[0].text.startswith("Of 10 models, ")
