"""Write docs/limits.md: each default limit, why it is what it is, and the figures of real runs that it rests on.

python -m tools.limits FOLDER [FOLDER ...]

Each folder holds the record.json of an audit.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sw_audit.checks.registry import Check, find_checks
from sw_audit.record.record import Record
from sw_audit.record.store import decode_record
from sw_audit.record.verdict import Verdict
from sw_audit.runner.explain import name_outcome, write_figure, write_limit

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
HEAD = """\
# Limits, and what they rest on

Every default limit, the reason for it, and what real runs came to. A gate fails a release; of a law it is told
whether it holds.

The runs: {runs}.
(`make real`, `sw-audit audit specimen control`, `sw-audit demo d && sw-audit audit d/policy.swaudit.toml`; then
`python -m tools.limits` and the folders with their records)
"""


def write_page(records: Sequence[Record]) -> str:
    """Write the page from the records of audits, the checks in their order."""
    verdicts = [verdict for record in records for verdict in record.verdicts]
    results = [result for record in records for result in record.results]
    runs = "; ".join(f"{result.id} ({result.protocol.description})" for result in results)
    parts = [HEAD.format(runs=runs)]
    for check in find_checks().values():
        parts += ["", *_write_check(check, [verdict for verdict in verdicts if verdict.check == check.id])]
    return "\n".join(parts) + "\n"


def _write_check(check: Check, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield f"## `{check.id}` ({check.level})"
    yield ""
    yield f"{check.title}. Fails by default when {check.fails}."
    yield ""
    _, _, reasons = inspect.cleandoc(check.limits.__doc__ or "").partition("Attributes:\n")
    yield from (f"- {' '.join(entry.split())}" for entry in _split_entries(reasons))
    if verdicts:
        yield from ("", "| model | outcome | measured | limit |", "|---|---|---|---|")
    for verdict in verdicts:
        figures = f"{write_figure(verdict) or '-'} | {write_limit(verdict) or '-'}"
        yield f"| {verdict.model} | {name_outcome(verdict)} | {figures} |"


def _split_entries(reasons: str) -> Iterator[str]:
    entry: list[str] = []
    for line in reasons.splitlines():
        if entry and not line.startswith("     "):
            yield " ".join(entry)
            entry = []
        entry.append(line.strip())
    if any(entry):
        yield " ".join(entry)


def main(folders: Sequence[str]) -> None:
    """Write the page from the records in some folders."""
    records = [decode_record((Path(folder) / "record.json").read_text(encoding="utf-8")) for folder in folders]
    PAGE.write_text(write_page(records), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
