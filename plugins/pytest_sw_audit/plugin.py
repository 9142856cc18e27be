"""The hooks of pytest that sw-audit uses; what they do is told in the other files.

Importing this costs nothing: whatever is heavy is imported inside functions, when an audit is asked for.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from pytest_sw_audit import hookspecs
from pytest_sw_audit.assignments import list_policy_arguments
from pytest_sw_audit.collect import (
    AuditItem,
    PolicyFile,
    collect_file,
    collect_options,
    keep_named_items,
    take_named_items,
)
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
from pytest_sw_audit.options import add_options, read_settings
from pytest_sw_audit.output import LEDGER, Interruption, RunOutput, examine_folder, write_ledger
from pytest_sw_audit.progress import report_progress
from pytest_sw_audit.session import DESK, AuditSession, find_desk, is_worker, tell_error
from pytest_sw_audit.summary import print_summary, write_header
from pytest_sw_audit.xdist import OUTPUT, Distribution, make_output, share_cores

__all__ = ["_case", "sw_location", "sw_measurements", "sw_model", "sw_policy", "sw_verdicts"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others can implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Set the desk up; complain now about whatever can be known now."""
    config.addinivalue_line("markers", MARKER)
    desk = AuditSession(read_settings(config), config.rootpath, partial(report_progress, config))
    config.stash[DESK], config.stash[LEDGER] = desk, RunOutput()
    config.pluginmanager.register(Interruption(desk), "sw_audit-interruption")
    if hasattr(config.hook, "pytest_xdist_make_scheduler") and not is_worker(config):
        config.pluginmanager.register(Distribution(), "sw_audit-distribution")
    if config.getoption("help", False) or config.getoption("version", 0):
        return
    files = list_policy_arguments(config)
    if not desk.settings.requested and not files:
        return
    _engage(config, desk, files)


def _engage(config: pytest.Config, desk: AuditSession, files: list[Path]) -> None:
    from sw_audit.errors import AuditError

    try:
        if is_worker(config):
            share_cores(config)
        else:
            examine_folder(desk.settings.out)
            desk.check_places()
        if desk.settings.requested:
            desk.offer(desk.engage_options())
            take_named_items(config, desk)
        for path in files:
            desk.offer(desk.engage_file(path))
    except AuditError as error:
        raise pytest.UsageError(tell_error(error)) from error
    if desk.settings.alone and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args, config.args_source = [], pytest.Config.ArgsSource.ARGS


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Put the models that the options ask for under the session, before everything else."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        report.result = [*collect_options(collector), *report.result]
    return report


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PolicyFile | None:
    """Collect policy files."""
    return collect_file(file_path, parent)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use the fixtures once per model."""
    parametrize_models(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what the node ids on the command line name."""
    desk = find_desk(config)
    kept = keep_named_items(desk, items)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what this run will read, so that one measuring pass per model serves it all."""
    desk = find_desk(session.config)
    for item in session.items:
        if isinstance(item, AuditItem):
            desk.gated.setdefault(item.case, []).append(item.name)
            desk.need(item.case, [item.name])
        else:
            announce_tests(desk, item)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that says what it cannot say, also on a test without the fixtures."""
    read_marker(item)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Tell in one line what is audited."""
    return write_header(find_desk(config))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the records, or on a worker send what was found to the controller."""
    config = session.config
    desk = find_desk(config)
    desk.close_model()
    if is_worker(config):
        if desk.assignments:
            config.workeroutput[OUTPUT] = make_output(desk)  # type: ignore[attr-defined] # set by pytest-xdist
        return
    ledger = config.stash[LEDGER] = write_ledger(config, desk)
    if ledger.trouble:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of verdicts and where the report lies."""
    if not is_worker(config):
        print_summary(terminalreporter, find_desk(config), config.stash[LEDGER])
