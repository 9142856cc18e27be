"""What crosses between a worker of pytest-xdist and the controller: plain JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pytest_sw_audit.session import AuditSession, RemoteError
from sw_audit.record.record import AuditedModel
from sw_audit.runner.assignments import OPTIONS_KEY, Assignment, Case
from sw_audit.runner.options import SUFFIX
from sw_audit.runner.output import tell_error


@dataclass
class WorkerOutput:
    """What a worker found; see the attributes of `AuditSession` of the same names."""

    interrupted: bool
    stopped: str | None
    assignments: list[Assignment]
    gated: list[tuple[Case, list[str]]]
    results: list[tuple[Case, AuditedModel]]
    failures: list[tuple[Case, str]]


_OUTPUT = TypeAdapter(WorkerOutput)


def find_scope(nodeid: str, labels: Mapping[str, Case], root: Path) -> str:
    """Return what a test is kept together with: its model, else nothing but itself.

    Args:
        nodeid: Such as `llama-w4::prune-collapses`, `audit.swaudit.toml::llama-w4::prune-collapses`, or
            `test_mine.py::test_it[llama-w4]`.
        labels: The models by the label that tests on them bear; see `AuditSession.label_cases`.
        root: Root folder of the run, which node ids are relative to.
    """
    path, *names = nodeid.partition("[")[0].split("::")
    if path.endswith(SUFFIX) and names:
        return f"{path}::{names[0]}"
    if len(names) == 1 and Case(OPTIONS_KEY, path) in labels.values():
        return path
    bracket = f"-{nodeid.partition('[')[2].removesuffix(']')}-"
    longest = max((label for label in labels if f"-{label}-" in bracket), key=len, default=None)
    if longest is None:
        return nodeid
    key, model = labels[longest]
    return f"{os.path.relpath(key, root).replace(os.sep, '/')}::{model}" if key else model


def make_output(session: AuditSession) -> dict[str, Any]:
    """Put what this worker found into plain JSON types."""
    output = WorkerOutput(
        interrupted=session.interrupted,
        stopped=session.stopped,
        assignments=list(session.assignments.values()),
        gated=list(session.gated.items()),
        results=[(case, session.results[case]) for case in session.gated if case in session.results],
        failures=[(case, tell_error(error)) for case, error in session.failures.items()],
    )
    plain: dict[str, Any] = _OUTPUT.dump_python(output, mode="json", by_alias=True)
    return plain


def merge_output(session: AuditSession, plain: dict[str, Any]) -> None:
    """Put what a worker found into the controller's session; the first to have measured a model counts."""
    output = _OUTPUT.validate_python(plain)
    session.interrupted |= output.interrupted
    session.stopped = session.stopped or output.stopped
    for assignment in output.assignments:
        session.assignments.setdefault(assignment.key, assignment)
    for case, checks in output.gated:
        session.gated.setdefault(case, checks)
    for case, model in output.results:
        session.results.setdefault(case, model)
    for case, message in output.failures:
        session.failures.setdefault(case, RemoteError(message))
