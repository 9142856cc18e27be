"""The hooks that a conftest.py or another plugin can implement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sw_audit.record.record import Record


@pytest.hookspec(firstresult=True)
def pytest_sw_audit_modify_record(config: pytest.Config, record: Record) -> Record | None:
    """Return the record to write in the given one's place, or `None` to leave it as it is.

    Called once per record, on the controller under pytest-xdist, before anything is written. Records are
    frozen: make a changed copy. For instance, to leave out what the machine is called::

        def pytest_sw_audit_modify_record(config, record):
            environment = record.environment.model_copy(update={"platform": "withheld"})
            return record.model_copy(update={"environment": environment})

    A verdict that is changed here does not follow from the measurements, and `sw-audit verify` names it.

    Args:
        config: The pytest configuration.
        record: The record of one policy's models.
    """


@pytest.hookspec
def pytest_sw_audit_recorded(
    config: pytest.Config, record: Record, files: Mapping[str, Path], trouble: str | None
) -> None:
    """Take note of a record that is complete.

    Called once per record, on the controller under pytest-xdist, after its files are in place.

    Args:
        config: The pytest configuration.
        record: The record.
        files: Where it lies: `record`, and `report` if one was asked for.
        trouble: Why a file could not be written, in one line; that file is not among `files`.
    """
