"""Where in which file a policy stands: what a report points at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.policy import Policy
from sw_audit.toml_text import parse_toml

Line = Annotated[int, Field(ge=1)]
TOOL_TABLE = ("tool", "sw_audit")
"""Where a pyproject.toml holds a policy."""
_HEADER = re.compile(r"(\[{1,2})([^]#]+)\]")


class PolicyOrigin(Fact):
    """The file that a policy was read from, and the lines of its parts, counted from 1.

    Attributes:
        path: Path with forward slashes, from the folder whose pyproject.toml counts, else the working folder.
        models: Line of each model's table, by the model's id; none of models that options name, and where the
            models are no `[[model]]` tables.
        checks: Line that sets the first of a check's limits, by the check's id.
        waivers: Line of each waiver's table, in their order; empty where they are no `[[waiver]]` tables.
        whole: Whether the file was audited as it stands, so that test cases bear its name; else options were put
            together with it.
    """

    path: str
    models: dict[str, Line] = Field(default_factory=dict)
    checks: dict[str, Line] = Field(default_factory=dict)
    waivers: tuple[Line, ...] = ()
    whole: bool = False


def trace_policy(
    policy: Policy, path: Path, root: Path, *, table: tuple[str, ...] = (), whole: bool = False
) -> PolicyOrigin | None:
    """Find where the parts of a policy stand in the file that it was read from.

    Args:
        policy: What was read.
        path: The file.
        root: Folder that the path is told from.
        table: The table that holds the policy; by default the whole file does.
        whole: Whether the file is audited as it stands.

    Returns:
        `None` where the file has no such table.
    """
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    document: Any = parse_toml(text)
    for name in table:
        document = document.get(name, {})
    if table and not document:
        return None
    lines = text.split("\n")
    headers = [
        (number, len(header[1]), tuple(re.sub(r"[\s\"']", "", header[2]).split(".")))
        for number, line in enumerate(lines, 1)
        if (header := _HEADER.match(line.strip()))
    ]

    def find_tables(name: str) -> tuple[int, ...]:
        """List the lines of an array of tables; what only looks like one of its headers makes them too many."""
        found = tuple(number for number, depth, parts in headers if depth == 2 and parts == (*table, name))
        return found if len(found) == len(document.get(name, ())) else ()

    def find_check(check: str) -> int | None:
        """Find the header of a check's table, else the first line that begins with its key."""
        key = re.compile(rf"(checks\s*\.\s*)?[\"']?{re.escape(check)}[\"']?\s*[.=]")
        named = (number for number, depth, parts in headers if depth == 1 and parts == (*table, "checks", check))
        keyed = (number for number, line in enumerate(lines, 1) if key.match(line.strip()))
        return next(named, None) or next(keyed, None)

    ids = [model.id for model in policy.models]
    return PolicyOrigin(
        path=Path(os.path.relpath(path, root)).as_posix(),
        models=dict(zip(ids, find_tables("model"), strict=False)),
        checks={check: line for check in document.get("checks", {}) if (line := find_check(check)) is not None},
        waivers=find_tables("waiver"),
        whole=whole,
    )
