"""Write docs/limits.md: each default limit, why it is what it is, and the figures of real runs that it rests on.

python -m tools.limits FOLDER [FOLDER ...]

Each folder holds the record.json of an audit.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sw_audit.checks.explain import name_outcome, write_figure, write_limit
from sw_audit.checks.registry import Check, find_checks
from sw_audit.record.record import AuditedModel, ModelResult, Record
from sw_audit.record.store import decode_record
from sw_audit.record.verdict import Verdict

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
HEAD = """\
# Limits, and what they rest on

Every default limit, the reason for it, and what real runs came to. A gate fails a release; of a law it is told
whether it holds.

The runs: {runs}.
(`make real`; `sw-audit audit specimen control`; `python -m tools.real.descendants specimen d`, its five folders
audited with `--parent specimen`; `sw-audit demo d && sw-audit audit d/policy.swaudit.toml`; then
`python -m tools.limits` and the folders with the records)
"""


def write_page(records: Sequence[Record]) -> str:
    """Write the page from the records of audits, the checks in their order."""
    models = {_name(model): model for record in records for model in record.models}
    runs = "; ".join(
        f"{name} ({model.protocol.description})"
        for name, model in models.items()
        if isinstance(model, ModelResult)
    )
    parts = [HEAD.format(runs=runs)]
    for check in find_checks().values():
        rows = {
            name: verdict
            for name, model in models.items()
            for verdict in model.verdicts
            if verdict.check == check.id
        }
        parts += _write_check(check, rows)
    return "\n".join(parts)


def _name(model: AuditedModel) -> str:
    if isinstance(model, ModelResult) and model.descent is not None:
        return f"{model.id} of {model.descent.parent.id}"
    return model.id


def _write_check(check: Check, verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    yield f"## `{check.id}` ({check.level})"
    yield ""
    yield f"{check.title}. By default it fails, or does not hold, when {check.fails}."
    yield ""
    _, _, reasons = inspect.cleandoc(check.limits.__doc__ or "").partition("Attributes:\n")
    if reasons:
        yield from (f"- {' '.join(entry.split())}" for entry in _split_entries(reasons))
        yield ""
    if verdicts:
        yield from ("| model | outcome | measured | limit |", "|---|---|---|---|")
        for name, verdict in verdicts.items():
            figures = f"{write_figure(verdict) or '-'} | {write_limit(verdict) or '-'}"
            yield f"| {name} | {name_outcome(verdict)} | {figures} |"
        yield ""


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
