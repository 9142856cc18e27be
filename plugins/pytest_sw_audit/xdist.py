"""Under pytest-xdist one model goes to one worker, and workers share the cores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from pytest_sw_audit.options import is_alone, is_requested
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
        self._left: Counter[str] = Counter()
        self._failing: set[str] = set()
        self._fleet: Any = None

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
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Count the test cases of each model, which every worker collects alike."""
        if self._fleet is not None or not has_session(node.config):
            return
        from pytest_sw_audit.progress import count_models

        asked = {case.model for case in find_session(node.config).label_cases().values() if not case.key}
        scopes = (nodeid.rpartition("::")[0] for nodeid in ids)
        self._left = Counter(one for one in scopes if one in asked or SUFFIX in one.partition("::")[0])
        self._fleet = count_models(node.config, dict.fromkeys(self._left))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of models of which all test cases have ended, on whichever worker."""
        model = report.nodeid.rpartition("::")[0]
        if self._fleet is None or model not in self._left:
            return
        if report.failed:
            self._failing.add(model)
        if report.when == "teardown":
            self._left[model] -= 1
            if not self._left[model]:
                self._fleet.ended(model, failing=model in self._failing)

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


def limit_workers(config: pytest.Config, workers: int, files: Sequence[Path]) -> int:
    """Return how many workers to start where pytest-xdist would start so many, one per core.

    No more than fit into memory with the largest models, and where nothing but models is tested no more than
    there are. `files` are the policy files among the arguments. Where no audit is asked for all are started.
    """
    alone = is_alone(config) and config.args_source is not pytest.Config.ArgsSource.ARGS
    ignored, here = config.getini("norecursedirs"), config.invocation_params.dir
    folders = [] if alone else [here / argument.partition("::")[0] for argument in config.args]
    found = [path for folder in folders for path in _list_policies(folder, ignored)]
    asked = is_requested(config) or names_models(config)
    if not (asked or files or found):
        return workers
    from sw_audit.memory import find_available
    from sw_audit.runner.fitting import count_fitting, list_needs

    session, assignments = find_session(config), []
    for path in (*([None] if asked else []), *dict.fromkeys([*files, *found])):
        with suppress(AuditError):  # the session will complain
            assignments.append(session.assign_file(path) if path else session.assign_options())
    needs = list_needs(assignments)
    together = min(workers, max(1, len(needs)))
    fitting = count_fitting(needs, find_available())
    only_models = alone or len(files) == len(config.args)
    return min(together if only_models else workers, fitting if fitting < together else workers)


def tell_memory(config: pytest.Config) -> str | None:
    """Say before the run that as many models at once as there are workers do not fit into memory."""
    workers, session = config.getoption("numprocesses", None), find_session(config)
    if not workers:
        return None
    from sw_audit.memory import find_available
    from sw_audit.runner.fitting import list_needs, tell_fitting

    needs = list_needs(session.assignments[key] for key in session.offered)
    told = tell_fitting(needs, workers, find_available())
    return told and f"sw-audit: {told} (-n auto)"


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
    found = (_list_policies(here / argument.partition("::")[0], ignored) for argument in config.args)
    return any(path for paths in found for path in paths)


def _list_policies(folder: Path, ignored: list[str]) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in files if name.endswith(SUFFIX))
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)]
