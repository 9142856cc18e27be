"""`sw-audit schema`: the JSON Schema of policy and record."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from sw_audit.record.store import json_schema


def schema(
    which: Annotated[
        Literal["policy", "record"] | None,
        typer.Argument(metavar="[policy|record]", help="Which one; by default both, in one object."),
    ] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of policy files and records.

    For example:

      sw-audit schema record > record.schema.json
    """
    schemas = json_schema()
    typer.echo(json.dumps(schemas if which is None else schemas[which], indent=2))
