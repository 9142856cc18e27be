"""Under pytest-xdist: one model goes to one worker, and what workers found comes back as plain JSON."""

from __future__ import annotations

import os
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from pytest_sw_audit.assignments import OPTIONS_KEY, SUFFIX, Assignment, Case
from pytest_sw_audit.session import AuditSession, RemoteError, find_desk, plain, tell_error

OUTPUT = "sw_audit"
"""Key of what a worker sends, in its `workeroutput`."""


class Distribution:
    """The hooks of pytest-xdist that an audit needs; registered on the controller only."""

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give one model to one worker, where pytest-xdist would spread single tests."""
        desk = find_desk(config)
        if config.getvalue("dist") != "load" or not _expects_audit(config, desk):
            return None
        from xdist.scheduler import LoadScopeScheduling

        class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist may not be there to be typed
            """Load scheduling in which the tests of one model stay together."""

            def _split_scope(self, nodeid: str) -> str:
                return find_scope(nodeid, desk, config.rootpath)

        return ModelScheduling(config, log)

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take what a worker sent when it finished."""
        desk = find_desk(node.config)
        output = getattr(node, "workeroutput", None) or {}
        if OUTPUT in output:
            merge_output(desk, output[OUTPUT])
        if output.get("exitstatus") == pytest.ExitCode.INTERRUPTED and error is None:
            desk.interrupted = True


def share_cores(config: pytest.Config) -> None:
    """On a worker, leave the other workers their part of the cores, unless the user has divided them.

    Threads of two processes on one core wait for each other actively, and an audit takes several times as long.
    torch reads the variable when it is loaded, which is later.
    """
    workers = int(config.workerinput["workercount"])  # type: ignore[attr-defined] # set by pytest-xdist
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def find_scope(nodeid: str, desk: AuditSession, root: Path) -> str:
    """Return what a test is kept together with: its model, else nothing but itself.

    Args:
        nodeid: Such as `llama-w4::prune-collapses`, `audit.swaudit.toml::llama-w4::prune-collapses`, or
            `test_mine.py::test_it[llama-w4]`.
        desk: Knows the models.
        root: Root folder of the run, which node ids are relative to.
    """
    path, *names = nodeid.partition("[")[0].split("::")
    if path.endswith(SUFFIX) and names:
        return f"{path}::{names[0]}"
    labels = desk.label_cases()
    if len(names) == 1 and Case(OPTIONS_KEY, path) in labels.values():
        return path
    bracket = f"-{nodeid.partition('[')[2].removesuffix(']')}-"
    found = max((label for label in labels if f"-{label}-" in bracket), key=len, default=None)
    if found is None:
        return nodeid
    key, model = labels[found]
    return f"{os.path.relpath(key, root).replace(os.sep, '/')}::{model}" if key else model


def make_output(desk: AuditSession) -> dict[str, Any]:
    """Put what this worker found into plain JSON types."""
    cases = [case for case in desk.gated if case in desk.results]
    return {
        "interrupted": desk.interrupted,
        "assignments": [
            {"key": one.key, "name": one.name, "policy": plain(one.policy), "checks": dict(one.checks)}
            for one in desk.assignments.values()
        ],
        "gated": [[*case, list(checks)] for case, checks in desk.gated.items()],
        "results": [[*case, plain(desk.results[case])] for case in cases],
        "failures": [[*case, tell_error(error)] for case, error in desk.failures.items()],
    }


def merge_output(desk: AuditSession, output: dict[str, Any]) -> None:
    """Put what a worker found on the controller's desk; the first to have measured a model counts."""
    from pydantic import TypeAdapter

    from sw_audit.policy.policy import Policy
    from sw_audit.record.record import AuditedModel

    desk.interrupted |= output["interrupted"]
    for one in output["assignments"]:
        policy = Policy.model_validate(one["policy"])
        checks = {model: tuple(names) for model, names in one["checks"].items()}
        assignment = Assignment(one["key"], one["name"], policy, checks)
        desk.assignments.setdefault(assignment.key, assignment)
    for key, model, checks in output["gated"]:
        desk.gated.setdefault(Case(key, model), list(checks))
    audited: TypeAdapter[AuditedModel] = TypeAdapter(AuditedModel)
    for key, model, content in output["results"]:
        desk.results.setdefault(Case(key, model), audited.validate_python(content))
    for key, model, message in output["failures"]:
        desk.failures.setdefault(Case(key, model), RemoteError(message))


def _expects_audit(config: pytest.Config, desk: AuditSession) -> bool:
    """Whether workers will find models to audit; the controller itself collects nothing."""
    from sw_audit.errors import AuditError

    if not desk.offered and desk.names_models():
        with suppress(AuditError):  # a worker that needs the models will tell
            desk.offer(desk.engage_options())
    if desk.offered:
        return True
    ignored = config.getini("norecursedirs")
    here = config.invocation_params.dir
    return any(_holds_policy(here / argument.partition("::")[0], ignored) for argument in config.args)


def _holds_policy(folder: Path, ignored: list[str]) -> bool:
    for _, folders, files in os.walk(folder):
        if any(name.endswith(SUFFIX) for name in files):
            return True
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)]
    return False
