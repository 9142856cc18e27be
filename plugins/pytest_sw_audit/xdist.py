"""Under pytest-xdist one model goes to one worker, and workers share the cores."""

from __future__ import annotations

import os
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from pytest_sw_audit.state import find_session, has_session, names_models
from sw_audit.errors import AuditError
from sw_audit.runner.options import SUFFIX

DISTRIBUTION = "sw_audit-distribution"
"""Name of the plugin with the hooks below."""

OUTPUT = "sw_audit"
"""Key of what a worker sends, in its `workeroutput`."""


class Distribution:
    """The hooks of pytest-xdist that an audit needs; registered on the controller only."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []

    @pytest.hookimpl
    def pytest_configure_node(self, node: Any) -> None:
        """Take note of a worker."""
        self._nodes.append(node)

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give one model to one worker, where pytest-xdist would spread single tests."""
        if config.getvalue("dist") != "load" or not _expects_audit(config):
            return None
        from xdist.scheduler import LoadScopeScheduling

        from pytest_sw_audit.exchange import find_scope

        session = find_session(config)
        with suppress(AuditError):  # a worker that needs the models will tell
            session.offer_tool_models()

        class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist may not be there to be typed
            """Load scheduling in which the tests of one model stay together."""

            def _split_scope(self, nodeid: str) -> str:
                return find_scope(nodeid, session.label_cases(), config.rootpath)

        return ModelScheduling(config, log)

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take what a worker sent when it finished."""
        self._take_output(node)
        output = getattr(node, "workeroutput", None) or {}
        if output.get("exitstatus") == pytest.ExitCode.INTERRUPTED and error is None and has_session(node.config):
            session = find_session(node.config)
            session.interrupted |= session.stopped is None

    def take_rest(self) -> None:
        """Take what workers sent that finished when pytest-xdist ended them, after Ctrl-C."""
        for node in self._nodes:
            self._take_output(node)

    def _take_output(self, node: Any) -> None:
        output = getattr(node, "workeroutput", None) or {}
        if OUTPUT in output:
            from pytest_sw_audit.exchange import merge_output

            merge_output(find_session(node.config), output[OUTPUT])


def share_cores(config: pytest.Config) -> None:
    """On a worker, leave the other workers their part of the cores, unless the user has divided them.

    Threads of two processes on one core wait for each other actively, and an audit takes several times as long.
    torch reads the variable when it is loaded, which is later.
    """
    workers = int(config.workerinput["workercount"])  # type: ignore[attr-defined] # set by pytest-xdist
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def _expects_audit(config: pytest.Config) -> bool:
    """Whether workers will find models to audit; the controller itself collects nothing."""
    if (has_session(config) and find_session(config).offered) or names_models(config):
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
