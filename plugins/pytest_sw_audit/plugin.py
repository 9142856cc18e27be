"""The hooks of pytest that sw-audit uses; what they do is told in the other files.

Importing this costs nothing: whatever is heavy is imported when an audit is asked for (`find_session`).
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_sw_audit import hookspecs
from pytest_sw_audit.fixtures import (
    MARKER,
    _case,
    announce_tests,
    parametrize_models,
    read_marker,
    sw_location,
    sw_measurements,
    sw_model,
    sw_policy,
    sw_verdicts,
)
from pytest_sw_audit.options import add_options, is_requested
from pytest_sw_audit.state import find_session, has_session, is_worker
from pytest_sw_audit.xdist import DISTRIBUTION, OUTPUT, Distribution, limit_workers, share_cores, tell_memory
from sw_audit.runner.options import SUFFIX

if TYPE_CHECKING:
    from pytest_sw_audit.items import PolicyFile

__all__ = ["_case", "sw_location", "sw_measurements", "sw_model", "sw_policy", "sw_verdicts"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others can implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Begin the audit if one is asked for; complain now about whatever can be known now."""
    config.addinivalue_line("markers", MARKER)
    if hasattr(config.hook, "pytest_xdist_make_scheduler") and not is_worker(config):
        config.pluginmanager.register(Distribution(), DISTRIBUTION)
    if config.getoption("help", False) or config.getoption("version", 0):
        return
    files = _list_policy_arguments(config)
    if is_requested(config) or files:
        if is_worker(config):
            share_cores(config)
        find_session(config).begin(files)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """Under `-n auto`, start no more workers than have something to do and fit into memory."""
    workers = yield
    return limit_workers(config, workers, _list_policy_arguments(config))


def _list_policy_arguments(config: pytest.Config) -> list[Path]:
    """Return the policy files among the command line's file arguments, as absolute paths."""
    here = config.invocation_params.dir
    named = [here / argument.partition("::")[0] for argument in config.args]
    return [path for path in dict.fromkeys(named) if path.name.endswith(SUFFIX) and path.is_file()]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Put the models that the options ask for under the session, before everything else."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed and has_session(collector.config):
        from pytest_sw_audit.items import collect_options

        report.result = [*collect_options(collector), *report.result]
    return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """Collect policy files."""
    if not file_path.name.endswith(SUFFIX):
        return None
    from pytest_sw_audit.items import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use the fixtures once per model."""
    parametrize_models(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what the node ids on the command line name."""
    if not has_session(config):
        return
    from pytest_sw_audit.items import keep_named_items

    kept = keep_named_items(find_session(config), items)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what this run will read, so that one measuring pass per model serves it all."""
    if not has_session(session.config):
        return
    from pytest_sw_audit.items import AuditItem

    audit = find_session(session.config)
    for item in session.items:
        if isinstance(item, AuditItem):
            audit.gated.setdefault(item.case, []).append(item.name)
            audit.need(item.case, [item.name])
        else:
            announce_tests(audit, item)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that says what it cannot say, also on a test without the fixtures."""
    read_marker(item)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Tell what is audited, and whether memory is short for it."""
    if not has_session(config):
        return []
    from pytest_sw_audit.output import write_header

    return [line for line in (write_header(find_session(config)), tell_memory(config)) if line]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the records, or on a worker send what was found to the controller.

    pytest-xdist ends its workers first.
    """
    config = session.config
    if not has_session(config):
        return
    audit = find_session(config)
    audit.close_model()
    if is_worker(config):
        from pytest_sw_audit.exchange import make_output

        if audit.assignments:
            config.workeroutput[OUTPUT] = make_output(audit)  # type: ignore[attr-defined] # set by pytest-xdist
        return
    from pytest_sw_audit.output import write_records

    distribution = config.pluginmanager.get_plugin(DISTRIBUTION)
    if distribution is not None:
        distribution.take_rest()
    write_records(config, audit)
    if audit.trouble:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of verdicts and where the report lies."""
    if is_worker(config) or not has_session(config):
        return
    from pytest_sw_audit.output import print_summary

    print_summary(terminalreporter, find_session(config))
