"""What crosses between a worker of pytest-xdist and the controller: plain JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pytest_sw_audit.session import AuditSession, RemoteError, plain
from sw_audit.policy.policy import Policy
from sw_audit.record.record import AuditedModel
from sw_audit.runner.assignments import OPTIONS_KEY, Assignment, Case
from sw_audit.runner.options import SUFFIX
from sw_audit.runner.output import tell_error

_AUDITED: TypeAdapter[AuditedModel] = TypeAdapter(AuditedModel)


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
    return {
        "interrupted": session.interrupted,
        "assignments": [
            {
                "key": assignment.key,
                "name": assignment.name,
                "policy": plain(assignment.policy),
                "checks": dict(assignment.checks),
            }
            for assignment in session.assignments.values()
        ],
        "gated": [[*case, list(checks)] for case, checks in session.gated.items()],
        "results": [[*case, plain(session.results[case])] for case in session.gated if case in session.results],
        "failures": [[*case, tell_error(error)] for case, error in session.failures.items()],
    }


def merge_output(session: AuditSession, output: dict[str, Any]) -> None:
    """Put what a worker found into the controller's session; the first to have measured a model counts."""
    session.interrupted |= output["interrupted"]
    for content in output["assignments"]:
        policy = Policy.model_validate(content["policy"])
        checks = {model: tuple(names) for model, names in content["checks"].items()}
        assignment = Assignment(content["key"], content["name"], policy, checks)
        session.assignments.setdefault(assignment.key, assignment)
    for key, model, checks in output["gated"]:
        session.gated.setdefault(Case(key, model), list(checks))
    for key, model, content in output["results"]:
        session.results.setdefault(Case(key, model), _AUDITED.validate_python(content))
    for key, model, message in output["failures"]:
        session.failures.setdefault(Case(key, model), RemoteError(message))
