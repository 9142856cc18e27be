"""One open checkpoint of each format, made and opened once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.stored import STORED, Stored

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.policy.policy import ModelPolicy


@dataclass(frozen=True)
class Opened:
    """The specimen in one format."""

    stored: Stored
    folder: Path
    checkpoint: Checkpoint


@pytest.fixture(scope="session", params=STORED, ids=str)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    stored: Stored = request.param
    folder = stored.make(tmp_path_factory.mktemp(stored.name) / "model")
    return Opened(stored, folder, open_checkpoint(ModelPolicy(source=str(folder))))
