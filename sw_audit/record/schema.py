"""The JSON Schema of what people write and what they read: policy and record."""

from __future__ import annotations

from typing import Any

from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas (draft 2020-12) under `policy` and `record`.

    A policy may leave out whatever has a default. A record as it is written leaves nothing out.
    """
    return {
        "policy": {"$schema": _DIALECT, **Policy.model_json_schema(mode="validation")},
        "record": {"$schema": _DIALECT, **Record.model_json_schema(mode="serialization")},
    }
