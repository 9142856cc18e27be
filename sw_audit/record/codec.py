"""A record as JSON text and back: strict, finite, versioned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from pydantic import ValidationError

from sw_audit.errors import RecordError
from sw_audit.record.record import Record
from sw_audit.record.upgrades import upgrade_document

_REMEDY = "give a record as sw-audit wrote it (record.json, or the HTML report)"


def encode_record(record: Record) -> str:
    """Write a record as JSON, two spaces a level; a list of plain values stays on one line.

    `decode_record(encode_record(record)) == record`: numbers are written so that they are read back to the
    last bit, and none is ever NaN or infinite.
    """
    document = record.model_dump(mode="json", by_alias=True)
    return "".join(_write(document, "\n")) + "\n"


def decode_record(text: str, origin: str = "record") -> Record:
    """Read a record.

    Args:
        text: JSON.
        origin: Where it comes from, for error messages.

    Raises:
        RecordError: If it is not JSON, of an unknown schema, or says something that a record cannot say.
    """
    document = upgrade_document(_parse(text, origin), origin)
    try:
        # Through JSON again, for in strict mode pydantic reads tuples and enums only from JSON.
        return Record.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        found = "this key is unknown" if first["type"] == "extra_forbidden" else first["msg"]
        raise RecordError(f"record {origin}, key {path.lstrip('.') or 'record'}", found, _REMEDY) from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    def refuse_number(literal: str) -> NoReturn:
        raise RecordError(f"record {origin}", f"it holds {literal}, which is not a number in JSON", _REMEDY)

    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise RecordError(f"record {origin}", "a key stands twice in one object", _REMEDY)
        return table

    try:
        document = json.loads(text, parse_constant=refuse_number, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {origin}", f"it is not JSON ({error})", _REMEDY) from error
    if not isinstance(document, dict):
        raise RecordError(f"record {origin}", f"it is a JSON {type(document).__name__}", _REMEDY)
    return document


def _write(value: Any, newline: str) -> Iterator[str]:
    nested = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(part, dict | list) for part in value)
    )
    if not value or not nested:
        yield json.dumps(value, allow_nan=False, ensure_ascii=False)
        return
    deeper = f"{newline}  "
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    parts = value.items() if isinstance(value, dict) else ((None, part) for part in value)
    for number, (key, part) in enumerate(parts):
        name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
        yield f"{',' if number else opening}{deeper}{name}"
        yield from _write(part, deeper)
    yield f"{newline}{closing}"
