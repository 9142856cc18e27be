"""How long work tells where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how many steps are done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note; must not raise."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Take no note."""
