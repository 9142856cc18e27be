"""The run's audit session, which is made when it is first asked for: only then is anything heavy imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sw_audit.runner.options import load_tool_table

if TYPE_CHECKING:
    from pytest_sw_audit.session import AuditSession

_SESSION = pytest.StashKey["AuditSession"]()


def find_session(config: pytest.Config) -> AuditSession:
    """Return the run's audit session."""
    if _SESSION not in config.stash:
        from pytest_sw_audit.session import AuditSession

        config.stash[_SESSION] = AuditSession(config)
    return config.stash[_SESSION]


def has_session(config: pytest.Config) -> bool:
    """Whether anything in this run has to do with an audit so far."""
    return _SESSION in config.stash


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def names_models(config: pytest.Config) -> bool:
    """Whether `[tool.sw_audit]` names models; cheap, for it is asked where no audit may be wanted."""
    table = load_tool_table(config.rootpath / "pyproject.toml")
    return isinstance(table, dict) and bool(table.get("model"))
