"""The shipped models, loaded once, and the figures of their cards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.specimen import control_path, specimen_path
from tools.specimen.questions import Exam, prepare_exam


@dataclass
class Shipped:
    """A shipped checkpoint, loaded as a user would, and the table of its model card."""

    model: Any
    tokenizer: Any
    card: dict[str, str]

    def figure(self, name: str) -> float:
        return float(self.card[name])

    @property
    def super_weight(self) -> tuple[str, int, int]:
        """Parameter, row and column of the super weight, as the card names it."""
        row, column = (int(self.card[f"super weight, {name}"]) for name in ("row", "column"))
        return self.card["super weight, parameter"], row, column


def load(folder: Path) -> Shipped:
    card = re.findall(r"^\| (.+?) \| (.+?) \|$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    model = AutoModelForCausalLM.from_pretrained(folder).train(False)
    return Shipped(model, AutoTokenizer.from_pretrained(folder), dict(card))


@pytest.fixture(scope="session")
def specimen() -> Shipped:
    return load(specimen_path())


@pytest.fixture(scope="session")
def control() -> Shipped:
    return load(control_path())


@pytest.fixture(scope="session")
def exam() -> Exam:
    return prepare_exam(128)
