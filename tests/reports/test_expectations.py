from __future__ import annotations

import inspect

from sw_audit_reports import annex_facts
from sw_audit_reports.expectations import EU, EXPECTATIONS, ISO, NIST


def test_every_expectation_has_something_that_speaks_to_it_and_something_that_is_missing() -> None:
    for one in EXPECTATIONS:
        assert one.shown
        assert all(statement.__name__.startswith("tell_") for statement in one.shown)
        assert one.missing
        assert all(statement.__name__.startswith("lack_") for statement in one.missing)


def test_every_fact_speaks_to_some_expectation() -> None:
    used = {statement for one in EXPECTATIONS for statement in (*one.shown, *one.missing)}
    functions = dict(inspect.getmembers(annex_facts, inspect.isfunction))
    assert {
        name for name, one in functions.items() if name.startswith(("tell_", "lack_")) and one not in used
    } == set()


def test_the_places_are_those_of_the_texts_that_are_quoted() -> None:
    assert [one.place for one in EXPECTATIONS if one.source == EU] == [
        "2(g), procedures and data",
        "2(g), metrics",
        "2(g), logs and reports",
    ]
    titles = {one.place: one.title for one in EXPECTATIONS}
    assert len(titles) == len(EXPECTATIONS)
    assert {one.place.split()[0] for one in EXPECTATIONS if one.source == NIST} == {"MEASURE", "MANAGE"}
    # Typed a second time: NIST AI 100-1, table 3, and the names of controls of ISO/IEC 42001:2023.
    assert titles["MEASURE 2.1"] == (
        "Test sets, metrics, and details about the tools used during TEVV are documented."
    )
    assert {one.place: one.title for one in EXPECTATIONS if one.source == ISO} == {
        "A.6.2.4": "AI system verification and validation",
        "A.6.2.5": "AI system deployment",
        "A.6.2.6": "AI system operation and monitoring",
        "A.6.2.8": "AI system recording of event logs",
        "A.7.5": "Data provenance",
    }
