"""A run of pytest inside pytest, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


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

    def record(self, path: str = "sw-audit-out/record.json") -> dict[str, Any]:
        """Return a record that was written."""
        document: dict[str, Any] = json.loads((self.pytester.path / path).read_text(encoding="utf-8"))
        return document

    def verdicts(self, path: str = "sw-audit-out/record.json") -> dict[tuple[str, str], Any]:
        """Return the verdicts of a record by model and check."""
        return {(one["model"], one["check"]): one for one in self.record(path)["verdicts"]}
