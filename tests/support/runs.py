"""A run of pytest inside pytest, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sw_audit.record.record import Record
from sw_audit.record.store import read_record
from sw_audit.record.verdict import Verdict


@dataclass
class Inner:
    """An inner run of pytest, and what it leaves behind."""

    pytester: pytest.Pytester
    notes: Path
    run: Callable[..., pytest.RunResult]

    def audit(self, *models: str, options: tuple[str, ...] = ()) -> pytest.RunResult:
        """Run pytest on these models."""
        return self.run(*(f"--sw-audit-model={model}" for model in models), *options)

    def noted(self, word: str) -> list[list[str]]:
        """Return what the stand-in noted under a word, each note as its words."""
        lines = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(f"{word} ")]

    def record(self, path: str = "sw-audit-out/record.json") -> Record:
        """Return a record that was written."""
        return read_record(self.pytester.path / path)

    def policy(self, path: str = "sw-audit-out/record.json") -> dict[str, Any]:
        """Return the policy of a record that was written, as JSON."""
        return self.record(path).policy.model_dump(mode="json", by_alias=True)

    def verdicts(self, path: str = "sw-audit-out/record.json") -> dict[tuple[str, str], Verdict]:
        """Return the verdicts of a record by model and check."""
        return {(verdict.model, verdict.check): verdict for verdict in self.record(path).verdicts}
