"""Old records stay readable: each schema number knows the step to the next one.

A change of the record's form raises `Record.schema_number` by one and adds to `STEPS` the function that turns a
document of the old number into one of the new; golden records of every number stay in the tests for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sw_audit.errors import RecordError

Document: TypeAlias = dict[str, Any]

CURRENT = 1

# From a schema number to the step that leads to the next one; 1 is the first form, so there is none yet.
STEPS: Mapping[int, Callable[[Document], Document]] = {}


def upgrade_document(
    document: Document,
    origin: str,
    *,
    current: int = CURRENT,
    steps: Mapping[int, Callable[[Document], Document]] = STEPS,
) -> Document:
    """Bring a record's JSON document to the current form.

    Args:
        document: The document; it is not changed.
        origin: Where it comes from, for error messages.
        current: The schema number to reach.
        steps: From a schema number to the step that leads to the next one.

    Raises:
        RecordError: If the document has no schema number, or one that this version does not know.
    """
    number = document.get("schema")
    if isinstance(number, bool) or not isinstance(number, int):
        raise RecordError(
            f"record {origin}", "it has no schema number", "give a record that sw-audit wrote (record.json)"
        )
    if number > current:
        raise RecordError(
            f"record {origin}",
            f"it is of schema {number}, newer than {current}, the newest that this version reads",
            "install a newer sw-audit",
        )
    if number < 1 or any(step not in steps for step in range(number, current)):
        raise RecordError(
            f"record {origin}", f"schema {number} does not exist", "give a record that sw-audit wrote"
        )
    for step in range(number, current):
        document = {**steps[step](document), "schema": step + 1}
    return document
